use kube::api::GroupVersionKind;
use serde_json::json;

use super::*;

fn target(name: &str) -> Target {
    Target { plural: "peerauthentications".to_owned(), key: ObjectKey::new("foo", name) }
}

fn content(generation: i64) -> Content {
    Content { uid: "u".to_owned(), generation: Some(generation), conditions: Vec::new() }
}

fn write(patch: &str) -> Write {
    let kind = GroupVersionKind::gvk("security.istio.io", "v1", "PeerAuthentication");
    Write { kind: ApiResource::from_gvk(&kind), patch: json!(patch) }
}

/// Takes out the one write that is due.
#[track_caller]
fn one(book: &mut Book, now: Instant) -> (Target, Waiting) {
    let mut due = book.due(now);
    assert_eq!(due.len(), 1);
    due.remove(0)
}

#[tokio::test(start_paused = true)]
async fn the_newest_status_of_an_object_replaces_what_waits() {
    let (mut book, now) = (Book::default(), Instant::now());
    assert!(book.want(target("a"), content(1), write("old"), now));
    assert!(book.want(target("a"), content(2), write("new"), now));
    assert!(book.want(target("b"), content(1), write("other"), now));
    let due: Vec<Value> = book.due(now).into_iter().map(|(_, w)| w.write.patch).collect();
    assert_eq!(due, [json!("new"), json!("other")]);
    assert!(book.due(now).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_not_written_again() {
    let (mut book, now) = (Book::default(), Instant::now());
    assert!(book.want(target("a"), content(1), write("x"), now));
    let (a, waiting) = one(&mut book, now);
    book.ended(a, waiting, Outcome::Written, now);
    assert!(!book.want(target("a"), content(1), write("x"), now), "another writer disagrees");
    assert!(book.due(now).is_empty());
    assert!(book.want(target("a"), content(2), write("y"), now));
    assert_eq!(book.due(now).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_overtaken_write_is_made_again_from_the_newer_version_without_being_news() {
    let (mut book, now) = (Book::default(), Instant::now());
    assert!(book.want(target("a"), content(1), write("from 1"), now));
    let (a, waiting) = one(&mut book, now);
    assert!(!book.want(target("a"), content(1), write("from 2"), now));
    book.ended(a, waiting, Outcome::Overtaken, now);
    assert_eq!(one(&mut book, now).1.write.patch, json!("from 2"));
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_newer_ones_go_first() {
    let (mut book, now) = (Book::default(), Instant::now());
    book.want(target("a"), content(1), write("x"), now);
    let (a, waiting) = one(&mut book, now);
    book.ended(a, waiting, Outcome::Failed, now);
    assert!(book.due(now).is_empty());
    assert_eq!(book.next(), Some(now + RETRY));
    let (a, waiting) = one(&mut book, now + RETRY);
    assert_eq!(waiting.tries, 1);
    book.ended(a, waiting, Outcome::Failed, now);
    assert_eq!(book.next(), Some(now + 2 * RETRY));
    let (a, waiting) = one(&mut book, now + 2 * RETRY);
    book.want(target("a"), content(2), write("newer"), now);
    book.ended(a, waiting, Outcome::Failed, now);
    assert_eq!(one(&mut book, now).1.write.patch, json!("newer"));
}

#[test]
fn a_failure_is_judged_by_what_the_server_said() {
    let answered = |code: u16| {
        let status = kube::core::Status { code, ..kube::core::Status::default() };
        Err(ApiError::Request(String::new(), Box::new(kube::Error::Api(Box::new(status)))))
    };
    let judge = |tries, result| {
        let now = Instant::now();
        outcome(
            &target("a"),
            &Waiting { write: write("x"), content: content(1), due: now, tries },
            result,
        )
    };
    assert_eq!(judge(0, Ok(())), Outcome::Written);
    assert_eq!(judge(0, answered(404)), Outcome::Overtaken);
    assert_eq!(judge(0, answered(409)), Outcome::Overtaken);
    assert_eq!(judge(0, answered(403)), Outcome::Failed);
    assert_eq!(judge(0, Err(ApiError::Timeout)), Outcome::Failed);
    assert_eq!(judge(0, answered(422)), Outcome::GivenUp);
    assert_eq!(judge(TRIES - 1, answered(503)), Outcome::GivenUp);
}

#[tokio::test(start_paused = true)]
async fn the_book_is_bounded() {
    let (mut book, now) = (Book::default(), Instant::now());
    for at in 0..OBJECTS {
        book.want(target(&at.to_string()), content(1), write("x"), now);
    }
    book.want(target("more"), content(1), write("x"), now);
    assert_eq!((book.waiting.len(), book.asked.len()), (OBJECTS, OBJECTS));
    let done = book.due(now).len();
    book.want(target("more"), content(1), write("x"), now);
    assert_eq!(book.waiting.len(), OBJECTS - done + 1);
}
