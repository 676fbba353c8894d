//! What two agents say to each other, and what an agent makes of one that says something else.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use sotto_proto::handover::{self as proto, Verdict, parcel::What};

use super::give::{Tally, pass};
use super::take::receive;
use super::turns::turns;
use super::*;

/// A plain connection with one of its ends, and the other of both.
pub(super) fn parcel() -> (Parcel, [TcpStream; 2]) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let end = || (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0);
    let ((first, app), (second, server)) = (end(), end());
    let what = What::Plain(proto::Plain::default());
    let message = proto::Parcel { pod_uid: "uid".to_owned(), what: Some(what) };
    (Parcel { message, session: None, sockets: vec![first, second] }, [app, server])
}

fn passing(stream: UnixStream) -> Passing {
    Passing::new(stream, PATIENCE).unwrap()
}

/// Offers one connection to who is at the other end: what became of it (none: it never left), and of the giving.
fn offer_one(parcel: Parcel, to: UnixStream) -> (Option<Answer>, anyhow::Result<()>) {
    let (turns, offered) = turns();
    let passing = thread::spawn(move || pass(passing(to), offered, &Tally::default()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(async { Some(turns.next().await?.offer(parcel).await) });
    drop(turns);
    (answer, passing.join().unwrap())
}

/// An agent that takes as `take` says.
fn taker(
    take: impl Fn(Parcel) -> Result<(), String> + Send + 'static,
) -> (UnixStream, JoinHandle<anyhow::Result<usize>>) {
    let (near, far) = UnixStream::pair().unwrap();
    (near, thread::spawn(move || receive(far, take)))
}

#[test]
fn what_is_taken_lives_on_with_its_sockets() {
    let (to, kept) = mpsc::channel();
    let (taker, taking) = taker(move |parcel| to.send(parcel).map_err(|error| error.to_string()));
    let (parcel, ends) = parcel();
    let (answer, ended) = offer_one(parcel, taker);
    ended.unwrap();
    assert!(matches!(answer, Some(Answer::Taken)));
    assert_eq!(taking.join().unwrap().unwrap(), 1);
    let taken = kept.recv().unwrap();
    assert_eq!(&*taken.pod().0, "uid");
    for (socket, end) in taken.sockets.iter().zip(&ends) {
        assert_eq!(socket.peer_addr().unwrap(), end.local_addr().unwrap());
    }
}

#[test]
fn what_is_refused_comes_back_whole() {
    let (taker, taking) = taker(|_| Err("no room".to_owned()));
    let (parcel, ends) = parcel();
    let (answer, ended) = offer_one(parcel, taker);
    ended.unwrap();
    let Some(Answer::Refused(back)) = answer else { panic!("it is not back") };
    assert_eq!(back.sockets[0].peer_addr().unwrap(), ends[0].local_addr().unwrap());
    assert_eq!(taking.join().unwrap().unwrap(), 0);
}

#[test]
fn an_agent_that_gives_in_another_way_is_told_so_and_nothing_is_taken() {
    let (near, taking) = taker(|_| panic!("nothing is to be taken"));
    let mut other = passing(near);
    let hello = Hello { format: FORMAT + 1, version: "9.9.9".to_owned(), ..Hello::default() };
    say(&mut other, &hello.encode_to_vec()).unwrap();
    let said = Hello::decode(&*other.answer().unwrap().message).unwrap();
    assert!(said.refusal.contains("9.9.9"), "{}", said.refusal);
    taking.join().unwrap().unwrap_err();
}

#[test]
fn what_is_no_greeting_is_refused() {
    let (near, taking) = taker(|_| panic!("nothing is to be taken"));
    let mut other = passing(near);
    say(&mut other, &[0xff; 40]).unwrap();
    let said = Hello::decode(&*other.answer().unwrap().message).unwrap();
    assert!(!said.refusal.is_empty());
    taking.join().unwrap().unwrap_err();
}

/// An agent that says this, message by message, whatever it hears, and leaves.
fn sayer(says: Vec<Vec<u8>>) -> (UnixStream, JoinHandle<()>) {
    let (near, far) = UnixStream::pair().unwrap();
    let saying = thread::spawn(move || {
        let mut far = passing(far);
        for message in says {
            drop(far.wait().unwrap());
            say(&mut far, &message).unwrap();
        }
        // It hears what comes next, and answers no more.
        drop(far.wait());
    });
    (near, saying)
}

#[test]
fn to_an_agent_of_another_way_or_that_refuses_nothing_is_given() {
    let other = Hello { format: FORMAT + 1, ..Hello::default() }.encode_to_vec();
    for says in [other, hello("not now".to_owned()), vec![0xff; 9]] {
        let (near, saying) = sayer(vec![says]);
        let (parcel, _ends) = parcel();
        let (answer, ended) = offer_one(parcel, near);
        ended.unwrap_err();
        assert!(answer.is_none(), "it stays where it is");
        saying.join().unwrap();
    }
}

#[test]
fn what_nobody_answers_for_is_lost() {
    for last in [None, Some(vec![0xff; 9])] {
        let says = [Some(hello(String::new())), last].into_iter().flatten().collect();
        let (near, saying) = sayer(says);
        let (parcel, _ends) = parcel();
        let (answer, ended) = offer_one(parcel, near);
        ended.unwrap_err();
        assert!(matches!(answer, Some(Answer::Lost)));
        saying.join().unwrap();
    }
}

#[test]
fn an_agent_that_is_gone_leaves_all_with_who_offers_it() {
    let (near, far) = UnixStream::pair().unwrap();
    drop(far);
    let (parcel, _ends) = parcel();
    let (answer, ended) = offer_one(parcel, near);
    ended.unwrap_err();
    assert!(answer.is_none());
}

#[test]
fn what_is_no_parcel_is_refused_and_the_next_is_taken() {
    let (near, taking) = taker(|_| Ok(()));
    let mut other = passing(near);
    say(&mut other, &hello(String::new())).unwrap();
    other.answer().unwrap();
    let (whole, _ends) = parcel();
    for (message, is_taken) in [(vec![0xff; 20], false), (whole.message.encode_to_vec(), true)] {
        say(&mut other, &message).unwrap();
        let verdict = Verdict::decode(&*other.answer().unwrap().message).unwrap();
        assert_eq!(verdict.refusal.is_empty(), is_taken, "{}", verdict.refusal);
    }
    drop(other);
    assert_eq!(taking.join().unwrap().unwrap(), 1);
}
