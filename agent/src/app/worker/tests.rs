//! A connection goes to the thread that is to serve it, or comes back; and what blocks runs beside a thread.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;
use crate::app::testing::{means, pod};
use crate::capture::Role;
use crate::sys::priority::{step_back, testing::nice};

/// A connection that another thread is to serve, and its client.
fn connection() -> (Detached, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let original_destination = listener.local_addr().unwrap();
    let application = TcpStream::connect(original_destination).unwrap();
    let (stream, client) = listener.accept().unwrap();
    let (role, pod) = (Role::Outbound, pod());
    (Detached { stream, role, asks: false, pod, client, original_destination }, application)
}

/// Where connections that stay go, and a place on the other thread.
fn seat() -> (Arc<Balance>, Seat) {
    let balance = Balance::new(0, 2, &means());
    let _home = balance.next(Role::Hbone);
    let seat = balance.next(Role::Hbone);
    assert_eq!(seat.thread(), 1);
    (balance, seat)
}

#[test]
fn a_thread_with_room_gets_the_connection_and_its_seat() {
    let (to, mut inbox) = mpsc::channel(1);
    let ((connection, _application), (balance, seat)) = (connection(), seat());
    assert!(hand_over(Some(&to.downgrade()), connection, seat).is_none());
    let Ok(Command::Serve { seat, .. }) = inbox.try_recv() else { panic!("no connection") };
    let _as_many_here = balance.at_home(Role::Hbone);
    assert_eq!(balance.next(Role::Hbone).thread(), 0, "its seat is taken");
    drop(seat);
    assert_eq!(balance.next(Role::Hbone).thread(), 1);
}

#[test]
fn what_a_full_thread_cannot_take_comes_back_open_and_leaves_no_seat_behind() {
    let (to, _inbox) = mpsc::channel(1);
    let (done, _) = oneshot::channel();
    to.try_send(Command::Drain { done }).unwrap();
    comes_back(Some(&to.downgrade()));
}

#[test]
fn what_was_for_a_thread_that_is_gone_comes_back() {
    let (to, inbox) = mpsc::channel(1);
    drop(inbox);
    comes_back(Some(&to.downgrade()));
    let gone = to.downgrade();
    drop(to);
    comes_back(Some(&gone));
    comes_back(None);
}

fn comes_back(to: Option<&mpsc::WeakSender<Command>>) {
    let ((connection, mut application), (balance, seat)) = (connection(), seat());
    let _as_many_here = balance.at_home(Role::Hbone);
    let mut back = hand_over(to, connection, seat).expect("it comes back");
    application.write_all(b"x").unwrap();
    let mut byte = [0];
    back.stream.read_exact(&mut byte).unwrap();
    assert_eq!(balance.next(Role::Hbone).thread(), 1, "its seat is free again");
}

#[test]
fn what_blocks_has_the_place_of_a_data_thread_whoever_gives_it() {
    let place = nice();
    let (commands, mut inbox) = mpsc::channel(1);
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let data = runtime();
    let thread = std::thread::spawn(move || {
        data.block_on(async {
            while let Some(Command::Beside { job }) = inbox.recv().await {
                run_beside(job);
            }
        });
    });
    let workers = [Worker { commands, thread }];
    let control = std::thread::spawn(move || {
        step_back().unwrap();
        runtime().block_on(async {
            let panics = || -> i32 { panic!("a job may") };
            assert!(beside(&workers, panics).await.is_err());
            beside(&workers, nice).await.unwrap()
        })
    });
    assert_eq!(control.join().unwrap(), place);
}
