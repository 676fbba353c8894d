//! Acts on what the machine decides: owns the view, the machine, and one job for each action.

mod admit;
mod jobs;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::admit::{Admission, Admit};
use self::jobs::{Done, Jobs};
use super::cni::Call;
use super::cni::wire::{Answer, Reply, Verb};
use super::condition::{Of, Told};
use super::machine::{Action, Input, Machine, Ticket, Timing, Trouble};
use super::netns::Locator;
use super::pods::{self, View};
use super::remembered;
use super::report::Report;
use super::rules::Reason;
use super::{AdoptedPod, Capture, EnrollError, LeftAlone, PodState, Settings, Status};
use crate::error::chain;
use crate::mesh::PodUid;
use crate::sys::doorstep::Doorstep;

/// CNI calls that may wait; more are turned away, and tried again by the kubelet.
const MAX_CALLS: usize = 64;
/// How often all pods are looked at even if nothing happened.
const RESYNC: Duration = Duration::from_secs(30);
/// How long the CNI server may take to answer its last calls.
const SERVER_END: Duration = Duration::from_secs(5);

/// Enrols this node's pods until `stop`. Captured pods stay captured then, for the next agent.
///
/// `adopted` is what the kernel holds already; `status` is kept up to date.
///
/// # Errors
/// The CNI socket cannot be made, or this process's network namespace cannot be told.
pub async fn run<C: Capture>(
    settings: Settings,
    client: kube::Client,
    capture: Arc<C>,
    adopted: Vec<AdoptedPod>,
    status: watch::Sender<Status>,
    stop: CancellationToken,
) -> Result<(), EnrollError> {
    let locator = Locator::new(settings.cgroup_root.clone(), settings.proc.clone())?;
    let jobs = Jobs::new(capture, client.clone(), locator);
    Parts::new(settings, client, jobs, status)?.run(adopted, stop).await
}

/// All that [`run`] puts together.
struct Parts<C> {
    driver: Driver<C>,
    socket: Doorstep,
    client: kube::Client,
}

impl<C: Capture> Parts<C> {
    fn new(
        settings: Settings,
        client: kube::Client,
        jobs: Jobs<C>,
        status: watch::Sender<Status>,
    ) -> Result<Self, EnrollError> {
        let socket = Doorstep::bind(&settings.cni_socket)
            .map_err(|source| EnrollError::Socket { path: settings.cni_socket.clone(), source })?;
        Ok(Self { driver: Driver::new(settings, jobs, status), socket, client })
    }

    async fn run(
        self,
        adopted: Vec<AdoptedPod>,
        stop: CancellationToken,
    ) -> Result<(), EnrollError> {
        let Self { mut driver, socket, client } = self;
        let (calls, incoming) = mpsc::channel(MAX_CALLS);
        let changes = pods::watch(&client, &driver.settings.node_name);
        let remembered = remembered::read(&driver.settings.remembered);
        driver.input(Input::Adopted(adopted));
        driver.input(Input::Remembered(remembered));
        let mut server = JoinSet::new();
        server.spawn(super::cni::serve(socket, calls, stop.clone()));
        // Without the server no pod of an enrolled namespace starts: that is for a restart to mend.
        tokio::select! {
            () = driver.drive(changes, incoming, &stop) => {}
            Some(ended) = server.join_next() => if !stop.is_cancelled() {
                let error = match ended {
                    Ok(Ok(())) => std::io::ErrorKind::UnexpectedEof.into(),
                    Ok(Err(error)) => error,
                    Err(panicked) => std::io::Error::other(panicked),
                };
                return Err(EnrollError::Server(error));
            }
        }
        // Calls that wait are answered by this: the server ends when they are.
        drop(driver);
        match tokio::time::timeout(SERVER_END, server.join_next()).await {
            Ok(Some(Ok(Err(error)))) => tracing::warn!(%error, "the CNI server broke"),
            Ok(Some(Err(error))) => tracing::error!(%error, "the CNI server panicked"),
            Ok(Some(Ok(Ok(()))) | None) => {}
            Err(_) => tracing::warn!("the CNI server was cut off"),
        }
        Ok(())
    }
}

struct Driver<C> {
    settings: Settings,
    view: View,
    machine: Machine,
    jobs: Jobs<C>,
    answers: HashMap<Ticket, oneshot::Sender<Reply>>,
    next_ticket: u64,
    status: watch::Sender<Status>,
    /// Pods whose users were told that they are left alone.
    told: HashSet<PodUid>,
    /// Pods whose condition was written since all pods were looked at for the last time.
    corrected: HashSet<PodUid>,
}

impl<C: Capture> Driver<C> {
    fn new(settings: Settings, jobs: Jobs<C>, status: watch::Sender<Status>) -> Self {
        Self {
            settings,
            view: View::default(),
            machine: Machine::new(Timing::default()),
            jobs,
            answers: HashMap::new(),
            next_ticket: 0,
            status,
            told: HashSet::new(),
            corrected: HashSet::new(),
        }
    }

    async fn drive(
        &mut self,
        mut changes: impl futures::Stream<Item = Result<pods::Change, kube::runtime::watcher::Error>>
        + Unpin,
        mut calls: mpsc::Receiver<Call>,
        stop: &CancellationToken,
    ) {
        let mut resync = tokio::time::interval(RESYNC);
        loop {
            let wake = self.machine.wake();
            // Every branch is cancel safe: streams, channels, a join set, timers.
            tokio::select! {
                () = stop.cancelled() => return,
                Some(change) = changes.next() => self.change(change),
                Some(call) = calls.recv() => self.call(call),
                Some(done) = self.jobs.next() => self.done(done),
                () = sleep_until(wake) => self.input(Input::Tick),
                _ = resync.tick() => {
                    self.corrected.clear();
                    self.snapshot();
                }
            }
        }
    }

    fn change(&mut self, change: Result<pods::Change, kube::runtime::watcher::Error>) {
        match change {
            Ok(change) => {
                self.view.apply(change);
                self.snapshot();
            }
            Err(error) => tracing::warn!(
                error = %chain(&error),
                "failed to watch pods and namespaces; what is known stays, and it is tried again"
            ),
        }
    }

    fn snapshot(&mut self) {
        if let Some(targets) = self.view.targets() {
            self.told.retain(|uid| targets.contains_key(uid));
            self.input(Input::Snapshot(targets));
        }
        for (pod, reason) in self.view.left_alone() {
            if self.told.insert(pod.uid.clone()) {
                self.jobs.report(&self.settings.node_name, Report::left_alone(pod, reason));
            }
        }
        self.correct();
    }

    /// Pods that were told to be not captured may be by now, or need not any more.
    fn correct(&mut self) {
        if !self.view.is_complete() || self.view.conditions().next().is_none() {
            return;
        }
        let captured: HashSet<PodUid> = self
            .machine
            .status()
            .into_iter()
            .filter(|pod| pod.state == PodState::Captured)
            .map(|pod| pod.uid)
            .collect();
        for (pod, said, is_asked_for) in self.view.conditions() {
            let told = match (is_asked_for, said) {
                (false, _) => Told::Nothing,
                (true, false) if captured.contains(&pod.uid) => Told::Captured,
                (true, _) => continue,
            };
            if self.corrected.insert(pod.uid.clone()) {
                self.jobs.condition(pod.of(), told);
            }
        }
    }

    fn call(&mut self, call: Call) {
        let Call { verb, request, reply } = call;
        match verb {
            Verb::Add => {
                let ticket = Ticket(self.next_ticket);
                self.next_ticket += 1;
                self.answers.insert(ticket, reply);
                let known = self.view.pod(&request.pod_namespace, &request.pod_name);
                self.jobs.admit(ticket, Admit { request, known });
            }
            Verb::Del => {
                let answer = Answer { enrolled: false, reason: "noted".to_owned() };
                answer_call(reply, Reply::Proceed(answer));
                self.jobs.detach(request);
            }
            Verb::Check => {
                answer_call(reply, self.check(&request.pod_namespace, &request.pod_name))
            }
        }
    }

    /// Whether a pod that is to be captured is.
    fn check(&self, namespace: &str, name: &str) -> Reply {
        let pods = self.machine.status();
        let named = |pod: &&super::PodStatus| {
            pod.pod.as_ref().is_some_and(|pod| pod.namespace == namespace && pod.name == name)
        };
        match pods.iter().find(named).map(|pod| pod.state) {
            Some(PodState::Captured) => {
                Reply::Proceed(Answer { enrolled: true, reason: "captured".to_owned() })
            }
            Some(PodState::Leaving) | None => {
                Reply::Proceed(Answer { enrolled: false, reason: "not enrolled".to_owned() })
            }
            Some(state) => Reply::Fail(format!("the pod is {}", state.as_str())),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Input(input) => {
                self.input(input);
                self.correct();
            }
            Done::Admitted { ticket, result } => match result {
                Ok(Admission::Leave { reason }) => {
                    self.answer(ticket, Reply::Proceed(Answer { enrolled: false, reason }));
                }
                Ok(Admission::Enroll { pod, container, netns }) => {
                    self.input(Input::CniAdd { ticket, pod: Arc::new(pod), container, netns });
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "CNI ADD refused");
                    let reply = if error.is_unsure() { Reply::Unsure } else { Reply::Fail };
                    self.answer(ticket, reply(chain(&error)));
                }
            },
        }
    }

    fn input(&mut self, input: Input) {
        for action in self.machine.handle(input, Instant::now()) {
            match action {
                Action::Answer { ticket, result: Ok(()) } => {
                    let reason = "the pod's connections are captured".to_owned();
                    self.answer(ticket, Reply::Proceed(Answer { enrolled: true, reason }));
                }
                Action::Answer { ticket, result: Err(reason) } => {
                    self.answer(ticket, Reply::Fail(reason));
                }
                Action::Report { uid, namespace, name, trouble } => {
                    let of = Of { uid, namespace, name };
                    let report = match trouble {
                        Trouble::NotCaptured(reason) => Report::failed(of, &reason),
                        Trouble::Forwards(bridge) => Report::forwards(of, &bridge),
                        Trouble::Hollow => Report::outside(of, Reason::Sandboxed),
                    };
                    self.jobs.report(&self.settings.node_name, report);
                }
                other => self.jobs.start(other, &self.view),
            }
        }
        self.publish();
    }

    fn answer(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(call) = self.answers.remove(&ticket) {
            answer_call(call, reply);
        }
    }

    fn publish(&self) {
        let pods = self.machine.status();
        let synced = self.view.is_complete();
        let settled = synced && pods.iter().all(super::PodStatus::is_settled);
        let namespaces = self.view.enrolled_namespaces();
        let left_alone = self.view.left_alone().map(|(pod, reason)| LeftAlone {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            reason,
        });
        let left_alone = left_alone.collect();
        let status = Status { synced, settled, pods, left_alone, namespaces };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }
}

/// Answers a call; one whose caller gave up needs no answer.
fn answer_call(call: oneshot::Sender<Reply>, reply: Reply) {
    if call.send(reply).is_err() {
        tracing::debug!("the CNI plugin gave up waiting");
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
