//! The root in use follows its Secret: what can be signed with counts at once, anything else is told and changes nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::{Api, Client};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::{Found, ROOT_SECRET, read};
use crate::control_plane::ca::{Authority, Link};
use crate::control_plane::cluster::report::write_warning;
use crate::control_plane::cluster::request;
use crate::control_plane::cluster::spawn::spawn;
use crate::control_plane::ends::{End, Reminder};
use crate::control_plane::metrics::Metrics;
use crate::error::chain;
use crate::sys::Shutdown;

/// How often the Secret is looked at: a change counts within twice that, on every replica.
const CHECK: Duration = Duration::from_secs(4);
/// How often it is told, in looks, that nothing can be signed with what it holds.
const TELL: u32 = 15;
/// Questions that wait for a look; who asks waits too.
const ASKS: usize = 4;

/// The root in use.
#[derive(Debug, Clone)]
pub struct Root {
    authority: watch::Receiver<Arc<Authority>>,
    asks: mpsc::Sender<oneshot::Sender<bool>>,
}

impl Root {
    /// What signs now, and whenever it is replaced.
    pub fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.clone()
    }

    /// Looks at the Secret now, and tells whether what is in use is what it holds.
    pub(in crate::control_plane::cluster) async fn is_current(&self) -> bool {
        let (answer, told) = oneshot::channel();
        self.asks.send(answer).await.is_ok() && told.await.unwrap_or(false)
    }
}

/// Follows the Secret in `namespace`, beginning with what was `found`, by a task of `shutdown`.
pub fn follow(
    client: Client,
    namespace: &str,
    found: Found,
    metrics: Metrics,
    shutdown: &Shutdown,
) -> Root {
    let (asks, asked) = mpsc::channel(ASKS);
    let (held, authority) = watch::channel(found.authority);
    let follower = Follower {
        client,
        namespace: namespace.to_owned(),
        taken: found.version,
        held,
        failures: 0,
        reminder: Reminder::default(),
        metrics,
    };
    follower.tell_ends();
    spawn(shutdown, follower.run(asked));
    Root { authority, asks }
}

struct Follower {
    client: Client,
    namespace: String,
    /// The Secret's version that what is in use is of.
    taken: Option<String>,
    held: watch::Sender<Arc<Authority>>,
    /// Looks in a row that found nothing to sign with.
    failures: u32,
    reminder: Reminder,
    metrics: Metrics,
}

impl Follower {
    async fn run(mut self, mut asked: mpsc::Receiver<oneshot::Sender<bool>>) {
        let mut looks = interval(CHECK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Both are cancel-safe.
            let asker = tokio::select! {
                _ = looks.tick() => None,
                Some(asker) = asked.recv() => Some(asker),
            };
            let current = self.look().await;
            if asker.is_some_and(|asker| asker.send(current).is_err()) {
                tracing::debug!("nobody waits any more for what the secret holds");
            }
            self.remind().await;
        }
    }

    /// Whether what is in use now is what the Secret holds.
    async fn look(&mut self) -> bool {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = match request(secrets.get_opt(ROOT_SECRET)).await {
            Ok(Some(secret)) => secret,
            Ok(None) => {
                self.refuse("GoneRoot", "it is gone").await;
                return false;
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "root not checked");
                return false;
            }
        };
        let version = secret.metadata.resource_version.clone();
        if version.is_some() && version == self.taken {
            self.failures = 0;
            self.metrics.root_refused.set(0);
            return true;
        }
        match read(&secret) {
            Ok(found) => {
                self.take(found).await;
                true
            }
            Err(error) => {
                self.refuse("InvalidRoot", &chain(&error)).await;
                false
            }
        }
    }

    async fn take(&mut self, Found { authority, version }: Found) {
        (self.taken, self.failures) = (version, 0);
        self.metrics.root_refused.set(0);
        let before = self.held.borrow().clone();
        if before.is_like(&authority) {
            return;
        }
        let (old, new) = (before.chain(), authority.chain());
        tracing::info!(
            signs = new.signing().fingerprint(),
            root = new.roots()[0].fingerprint(),
            trusted = new.roots().len(),
            "another root is in use"
        );
        let abrupt = !new.roots().contains(&old.roots()[0]);
        self.held.send_replace(authority);
        self.tell_ends();
        if abrupt {
            let note = "the root that signed until now is trusted no more: certificates of it that agents still have \
                        are refused by those that know. Meant for the last step of a change only; see Changing the root";
            self.warn("RootDropped", note).await;
        }
    }

    /// Says, once in a while, that the last good one stays.
    async fn refuse(&mut self, reason: &'static str, why: &str) {
        self.metrics.root_refused.set(1);
        if self.failures.is_multiple_of(TELL) {
            let note = format!("not taken up, what was there before stays in use: {why}");
            tracing::error!(secret = ROOT_SECRET, namespace = self.namespace, why, "root refused");
            if self.failures == 0 {
                self.warn(reason, &note).await;
            }
        }
        self.failures = self.failures.saturating_add(1);
    }

    /// Once a day, says what ends soon.
    async fn remind(&mut self) {
        let ends = self.ends();
        let all = ends.0.into_iter().chain(ends.1).collect::<Vec<_>>();
        if let Some(note) = self.reminder.due(&all, SystemTime::now()) {
            self.warn("RootExpiring", &note).await;
        }
    }

    fn tell_ends(&self) {
        let (roots, intermediates) = self.ends();
        self.metrics.ends.authorities(roots, intermediates);
    }

    /// Roots, and what stands below the one that signs.
    fn ends(&self) -> (Vec<End>, Vec<End>) {
        let authority = self.held.borrow().clone();
        let all = |links: &[Link]| links.iter().map(end).collect();
        (all(authority.chain().roots()), all(authority.chain().intermediates()))
    }

    /// An Event about the Secret, and a line of the log.
    async fn warn(&self, reason: &'static str, note: &str) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(ROOT_SECRET.to_owned()),
            ..ObjectReference::default()
        };
        tracing::warn!(secret = ROOT_SECRET, reason, note, "about the root");
        write_warning(&self.client, about, reason, note).await;
    }
}

fn end(link: &Link) -> End {
    let (from, at) = link.validity();
    let (name, fingerprint) = (link.subject().to_owned(), link.fingerprint().to_owned());
    End { name, fingerprint, from, at }
}
