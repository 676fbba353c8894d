use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::*;
use crate::control_plane::model::ObjectKey;

/// Takes a second for each token; those that begin with `good` are.
#[derive(Debug, Default)]
struct Slow {
    away: AtomicBool,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most: AtomicUsize,
}

impl Review for Arc<Slow> {
    async fn review(&self, token: &SecretString) -> Result<Caller, AuthenticateError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let at_once = self.at_once.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(at_once, Ordering::Relaxed);
        sleep(Duration::from_secs(1)).await;
        self.at_once.fetch_sub(1, Ordering::Relaxed);
        match token.expose_secret() {
            _ if self.away.load(Ordering::Relaxed) => {
                Err(AuthenticateError::Unavailable("no API server".into()))
            }
            good if good.starts_with("good") => {
                Ok(Caller { account: ObjectKey::new("n", "a"), pod: None })
            }
            "away" => Err(AuthenticateError::Unavailable("no API server".into())),
            _ => Err(AuthenticateError::Rejected("no token".to_owned())),
        }
    }
}

fn tokens() -> (Arc<Slow>, Arc<Tokens<Arc<Slow>>>) {
    let slow = Arc::new(Slow::default());
    (slow.clone(), Arc::new(Tokens::new(slow)))
}

fn source(last: u8) -> Source {
    Source::from(IpAddr::from([10, 0, 0, last]))
}

/// A good token that ends so many seconds from now.
fn ending_in(seconds: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = serde_json::json!({ "sub": "a", "exp": now.saturating_add_signed(seconds) });
    format!("good.{}.signature", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

async fn ask(
    tokens: &Tokens<Arc<Slow>>,
    token: &str,
    from: u8,
) -> Result<Caller, AuthenticateError> {
    tokens.authenticate(&token.into(), source(from)).await
}

/// Keeps `count` questions about garbage in the air, from one source.
fn flood(tokens: &Arc<Tokens<Arc<Slow>>>, from: u8, count: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for task in 0..count {
        let tokens = tokens.clone();
        tasks.spawn(async move {
            for at in 0_u32.. {
                let garbage = format!("garbage {from} {task} {at}");
                if matches!(
                    ask(&tokens, &garbage, from).await,
                    Err(AuthenticateError::Unavailable(_))
                ) {
                    sleep(Duration::from_secs(1)).await;
                }
            }
        });
    }
    tasks
}

#[tokio::test(start_paused = true)]
async fn an_agent_does_not_wait_behind_somebody_else_s_garbage() {
    let (slow, tokens) = tokens();
    let _floods = [2, 3, 4].map(|from| flood(&tokens, from, 2 * WAITING_OF_ONE));
    sleep(Duration::from_secs(30)).await;
    let began = Instant::now();
    assert!(ask(&tokens, "good", 1).await.is_ok());
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(slow.most.load(Ordering::Relaxed), 3 * AT_ONCE_OF_ONE + 1);
}

#[tokio::test(start_paused = true)]
async fn who_was_known_does_not_wait_behind_garbage_of_its_own_address() {
    let (slow, tokens) = tokens();
    assert!(ask(&tokens, "good", 1).await.is_ok());
    let _flood = flood(&tokens, 1, 2 * WAITING_OF_ONE);
    // What was remembered of it is forgotten.
    sleep(2 * GOOD).await;
    let (began, asked) = (Instant::now(), slow.asked.load(Ordering::Relaxed));
    assert!(ask(&tokens, "good", 1).await.is_ok());
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(slow.asked.load(Ordering::Relaxed) > asked);
    assert!(matches!(ask(&tokens, "good too", 1).await, Err(AuthenticateError::Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn of_many_sources_each_has_its_turn() {
    let (slow, tokens) = tokens();
    let _floods: Vec<_> = (2..32).map(|from| flood(&tokens, from, 5)).collect();
    sleep(Duration::from_secs(20)).await;
    let began = Instant::now();
    while ask(&tokens, "good", 1).await.is_err() {}
    assert!(began.elapsed() < 2 * PATIENCE, "{:?}", began.elapsed());
    assert_eq!(slow.most.load(Ordering::Relaxed), AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn answers_are_remembered_for_a_while() {
    let (slow, tokens) = tokens();
    let asked = |expected| assert_eq!(slow.asked.load(Ordering::Relaxed), expected);
    for _ in 0..3 {
        assert!(ask(&tokens, "good", 1).await.is_ok());
        assert!(matches!(ask(&tokens, "bad", 1).await, Err(AuthenticateError::Rejected(_))));
    }
    asked(2);
    sleep(BAD).await;
    assert!(ask(&tokens, "bad", 1).await.is_err());
    assert!(ask(&tokens, "good", 1).await.is_ok());
    asked(3);
    sleep(GOOD).await;
    assert!(ask(&tokens, "good", 1).await.is_ok());
    asked(4);
    for _ in 0..2 {
        assert!(matches!(ask(&tokens, "away", 1).await, Err(AuthenticateError::Unavailable(_))));
    }
    asked(6);
    assert!(tokens.book.lock().asking.is_empty());
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_be_asked_a_token_that_was_good_counts_for_two_hours() {
    let (slow, tokens) = tokens();
    let good = ending_in(24 * 3600);
    assert!(ask(&tokens, &good, 1).await.is_ok());
    assert!(ask(&tokens, "bad", 1).await.is_err());
    slow.away.store(true, Ordering::Relaxed);
    let unavailable = |answer: Result<Caller, AuthenticateError>| {
        assert!(matches!(answer, Err(AuthenticateError::Unavailable(_))), "{answer:?}");
    };
    sleep(UNASKED - GOOD).await;
    assert!(ask(&tokens, &good, 1).await.is_ok());
    unavailable(ask(&tokens, "good but never asked about", 1).await);
    unavailable(ask(&tokens, "bad", 1).await);
    sleep(2 * GOOD).await;
    unavailable(ask(&tokens, &good, 1).await);
    slow.away.store(false, Ordering::Relaxed);
    assert!(ask(&tokens, &good, 1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_be_asked_a_token_that_has_ended_does_not_count() {
    let (slow, tokens) = tokens();
    let (lasting, ended, unreadable) = (ending_in(3600), ending_in(-1), "good but no token");
    for token in [&lasting, &ended, unreadable] {
        assert!(ask(&tokens, token, 1).await.is_ok());
    }
    slow.away.store(true, Ordering::Relaxed);
    sleep(2 * GOOD).await;
    assert!(ask(&tokens, &lasting, 1).await.is_ok());
    for token in [&ended, unreadable] {
        let answer = ask(&tokens, token, 1).await;
        assert!(matches!(answer, Err(AuthenticateError::Unavailable(_))), "{token}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_remembered_beyond_the_tokens_end() {
    let (slow, tokens) = tokens();
    let (lasting, ended) = (ending_in(3600), ending_in(-1));
    for token in [&lasting, &ended, &lasting, &ended] {
        assert!(ask(&tokens, token, 1).await.is_ok());
    }
    assert_eq!(slow.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn garbage_does_not_make_a_good_token_be_forgotten_nor_grow_for_ever() {
    let (slow, tokens) = tokens();
    assert!(ask(&tokens, "good", 1).await.is_ok());
    let now = Instant::now();
    for at in 0..2 * TOKENS {
        let token: Fingerprint = Sha256::digest(at.to_be_bytes()).into();
        tokens.remember(token, &Err(AuthenticateError::Rejected(String::new())));
    }
    let kept = {
        let book = tokens.book.lock();
        (book.bad.values.len(), book.bad.order.len())
    };
    assert_eq!(kept, (TOKENS, TOKENS));
    assert!(ask(&tokens, "good", 1).await.is_ok());
    assert_eq!(slow.asked.load(Ordering::Relaxed), 1);
    assert!(now.elapsed() < Duration::from_secs(1));
}
