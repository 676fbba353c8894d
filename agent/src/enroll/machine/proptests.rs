//! Whatever happens in whatever order: it converges, and on the way it never does what it must not.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::mesh::Account;

const PODS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Enroll,
    NoAddressYet,
    Leave,
}

#[derive(Debug, Clone)]
enum Step {
    Label(usize, Label),
    Delete(usize),
    /// The API server's view reaches us.
    Snapshot,
    /// The runtime makes a sandbox and tells us.
    Add(usize),
    /// It makes one and does not.
    MoveUnseen(usize),
    /// It takes the current sandbox, or an older one, down.
    Del(usize, bool),
    /// An action ends.
    Finish {
        which: usize,
        well: bool,
        half: bool,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let pod = 0..PODS;
    let label = prop_oneof![Just(Label::Enroll), Just(Label::NoAddressYet), Just(Label::Leave)];
    prop_oneof![
        3 => (pod.clone(), label).prop_map(|(i, label)| Step::Label(i, label)),
        1 => pod.clone().prop_map(Step::Delete),
        4 => Just(Step::Snapshot),
        2 => pod.clone().prop_map(Step::Add),
        1 => pod.clone().prop_map(Step::MoveUnseen),
        1 => (pod, any::<bool>()).prop_map(|(i, old)| Step::Del(i, old)),
        8 => (any::<usize>(), prop::bool::weighted(0.7), any::<bool>())
            .prop_map(|(which, well, half)| Step::Finish { which, well, half }),
        3 => (0..20_000u64).prop_map(Step::Wait),
    ]
}

/// The cluster, the runtime and the kernel.
struct World {
    machine: Machine,
    now: Instant,
    labels: BTreeMap<usize, Label>,
    deleted: BTreeSet<usize>,
    /// Where each pod's processes are.
    sandboxes: BTreeMap<usize, u64>,
    next_inode: u64,
    kernel: BTreeMap<PodUid, u64>,
    annotated: BTreeSet<PodUid>,
    running: Vec<Action>,
    open_tickets: BTreeSet<u64>,
    next_ticket: u64,
    /// Pods that the machine was told are gone, and was not told of since.
    told_gone: BTreeSet<PodUid>,
    listed: BTreeSet<PodUid>,
}

fn uid(i: usize) -> PodUid {
    PodUid(arcstr::format!("u-{i}"))
}

fn index(uid: &PodUid) -> usize {
    uid.0.trim_start_matches("u-").parse().expect("an index")
}

fn pod(i: usize) -> Arc<LocalPod> {
    Arc::new(LocalPod {
        uid: uid(i),
        namespace: "shop".into(),
        name: arcstr::format!("p-{i}"),
        account: Account::new("shop", "web").expect("an account"),
        ip4: Some([10, 0, 0, 1].into()),
        ip6: None,
        exclusions: Default::default(),
    })
}

impl World {
    fn new(adopted: &[bool]) -> Self {
        let mut world = Self {
            machine: Machine::new(Timing::default()),
            now: Instant::now(),
            labels: BTreeMap::new(),
            deleted: BTreeSet::new(),
            sandboxes: BTreeMap::new(),
            next_inode: 100,
            kernel: BTreeMap::new(),
            annotated: BTreeSet::new(),
            running: Vec::new(),
            open_tickets: BTreeSet::new(),
            next_ticket: 0,
            told_gone: BTreeSet::new(),
            listed: BTreeSet::new(),
        };
        let mut pods = Vec::new();
        for i in (0..PODS).filter(|i| adopted[*i]) {
            let netns_inode = world.new_sandbox(i);
            world.labels.insert(i, Label::Enroll);
            world.kernel.insert(uid(i), netns_inode);
            world.listed.insert(uid(i));
            pods.push(AdoptedPod { uid: uid(i), netns_inode });
        }
        world.input(Input::Adopted(pods));
        world
    }

    fn new_sandbox(&mut self, i: usize) -> u64 {
        self.next_inode += 1;
        self.sandboxes.insert(i, self.next_inode);
        self.next_inode
    }

    fn step(&mut self, step: &Step) {
        match *step {
            // A UID never comes back.
            Step::Label(i, label) if !self.deleted.contains(&i) => {
                self.labels.insert(i, label);
            }
            Step::Delete(i) => {
                self.deleted.insert(i);
                self.labels.remove(&i);
                self.sandboxes.remove(&i);
                self.annotated.remove(&uid(i));
            }
            Step::Snapshot => self.snapshot(),
            Step::Add(i) if self.labels.contains_key(&i) => self.add(i),
            Step::MoveUnseen(i) if self.sandboxes.contains_key(&i) => {
                self.new_sandbox(i);
            }
            Step::Del(i, old) => self.del(i, old),
            Step::Finish { which, well, half } if !self.running.is_empty() => {
                let action = self.running.remove(which % self.running.len());
                self.finish(action, well, half);
            }
            Step::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.input(Input::Tick);
            }
            _ => {}
        }
    }

    fn snapshot(&mut self) {
        let target = |(i, label): (&usize, &Label)| {
            let wish = match label {
                Label::Enroll => Wish::Enroll(pod(*i)),
                Label::NoAddressYet => Wish::Keep,
                Label::Leave => Wish::Leave,
            };
            let annotated = self.annotated.contains(&uid(*i));
            let name = arcstr::format!("p-{i}");
            (uid(*i), Target { namespace: "shop".into(), name, wish, annotated })
        };
        let targets: HashMap<_, _> = self.labels.iter().map(target).collect();
        let gone: Vec<_> =
            self.listed.iter().filter(|uid| !targets.contains_key(*uid)).cloned().collect();
        self.told_gone.extend(gone);
        self.told_gone.retain(|uid| !targets.contains_key(uid));
        self.listed.extend(targets.keys().cloned());
        self.input(Input::Snapshot(targets));
    }

    fn add(&mut self, i: usize) {
        let inode = self.new_sandbox(i);
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.open_tickets.insert(ticket.0);
        // Until it is listed again, a snapshot without it may be older than this.
        self.told_gone.remove(&uid(i));
        self.listed.remove(&uid(i));
        let netns = NetnsRef { path: PathBuf::from("/x"), inode };
        let container = format!("c-{inode}");
        self.input(Input::CniAdd { ticket, pod: pod(i), container, netns });
    }

    fn del(&mut self, i: usize, old: bool) {
        let Some(inode) = self.sandboxes.get(&i).copied() else { return };
        let inode = if old { inode - 1 } else { inode };
        if !old {
            self.sandboxes.remove(&i);
        }
        let (namespace, name) = ("shop".to_owned(), format!("p-{i}"));
        let container = format!("c-{inode}");
        let (uid, netns_inode) = (Some(uid(i)), Some(inode));
        self.input(Input::CniDel { namespace, name, uid, container, netns_inode });
    }

    fn input(&mut self, input: Input) {
        for action in self.machine.handle(input, self.now) {
            self.judge(&action);
            match action {
                Action::Answer { ticket, .. } => {
                    assert!(self.open_tickets.remove(&ticket.0), "answered twice: {ticket:?}");
                }
                action => self.running.push(action),
            }
        }
    }

    /// No action that must not be.
    fn judge(&self, action: &Action) {
        let moves = |action: &Action| match action {
            Action::Capture { pod, .. } => Some(pod.uid.clone()),
            Action::Release { uid, .. } => Some(uid.clone()),
            _ => None,
        };
        if let Some(uid) = moves(action) {
            assert!(
                self.running.iter().all(|other| moves(other).as_ref() != Some(&uid)),
                "two at a time"
            );
        }
        let touched = match action {
            Action::Capture { pod, .. } | Action::Locate { pod, .. } => Some(pod.uid.clone()),
            Action::Annotate { uid, .. } => Some(uid.clone()),
            Action::Release { .. } | Action::Answer { .. } | Action::Report { .. } => None,
        };
        if let Some(uid) = touched {
            assert!(!self.told_gone.contains(&uid), "{action:?} for a pod that is gone");
        }
    }

    fn finish(&mut self, action: Action, well: bool, half: bool) {
        match action {
            Action::Capture { pod, netns, held_in } => {
                let result = self.capture(&pod.uid, netns.as_ref(), held_in, well, half);
                self.input(Input::Captured { uid: pod.uid.clone(), result });
            }
            Action::Release { uid, .. } => {
                if well || half {
                    self.kernel.remove(&uid);
                }
                let result = if well { Ok(()) } else { Err("busy".to_owned()) };
                self.input(Input::Released { uid, result });
            }
            Action::Annotate { uid, enabled, .. } => {
                let result = if well { Ok(()) } else { Err("no API server".to_owned()) };
                if well && enabled && self.labels.contains_key(&index(&uid)) {
                    self.annotated.insert(uid.clone());
                } else if well {
                    self.annotated.remove(&uid);
                }
                self.input(Input::Annotated { uid, enabled, result });
            }
            Action::Locate { pod, .. } => {
                let uid = pod.uid.clone();
                let netns_inodes = self.sandboxes.get(&index(&uid)).copied().into_iter().collect();
                self.input(Input::Located { uid, netns_inodes, inside: Inside::default() });
            }
            Action::Report { .. } => {}
            Action::Answer { .. } => unreachable!("answered as it is emitted"),
        }
    }

    fn capture(
        &mut self,
        uid: &PodUid,
        netns: Option<&NetnsRef>,
        held_in: Option<u64>,
        well: bool,
        half: bool,
    ) -> Result<u64, CaptureFailure> {
        let actual = self.sandboxes.get(&index(uid)).copied();
        let inode = actual
            .filter(|actual| netns.is_none_or(|told| told.inode == *actual))
            .ok_or_else(|| CaptureFailure::NotLocated("no".to_owned()))?;
        if held_in.is_some_and(|held| held != inode) {
            return Err(CaptureFailure::Moved);
        }
        if well || half {
            let before = self.kernel.insert(uid.clone(), inode);
            assert!(before.is_none_or(|before| before == inode), "captured twice");
        }
        if well {
            Ok(inode)
        } else {
            Err(CaptureFailure::Failed { netns_inode: inode, reason: "no".to_owned() })
        }
    }

    /// From now on everything goes well, for ten minutes.
    fn settle(&mut self) {
        for label in self.labels.values_mut().filter(|label| **label == Label::NoAddressYet) {
            *label = Label::Enroll;
        }
        let end = self.now + Duration::from_secs(600);
        let mut steps = 0;
        while self.now < end {
            self.snapshot();
            while let Some(action) = self.running.pop() {
                self.finish(action, true, true);
            }
            let next = self.now + Duration::from_secs(5);
            self.now = self.machine.wake().map_or(next, |wake| wake.min(next));
            self.input(Input::Tick);
            steps += 1;
            assert!(steps < 2000, "it does not come to rest");
        }
        while let Some(action) = self.running.pop() {
            self.finish(action, true, true);
        }
    }

    fn check_settled(&self) {
        let wanted: BTreeMap<PodUid, u64> = self
            .sandboxes
            .iter()
            .filter(|(i, _)| self.labels.get(i) == Some(&Label::Enroll))
            .map(|(i, inode)| (uid(*i), *inode))
            .collect();
        // What a dead namespace leaves in the kernel, of a pod that is still ours, stays until the
        // pod goes or a new sandbox comes: letting go without knowing where a pod is fails open.
        let alive = |inode: &u64| self.sandboxes.values().any(|sandbox| sandbox == inode);
        let captured: BTreeMap<_, _> =
            self.kernel.clone().into_iter().filter(|(_, inode)| alive(inode)).collect();
        assert_eq!(captured, wanted, "captured is not what is desired");
        let ours = |uid: &PodUid| self.labels.get(&index(uid)) == Some(&Label::Enroll);
        assert!(self.kernel.keys().all(ours), "held, and not ours: {:?}", self.kernel);
        let annotated: BTreeSet<PodUid> = wanted.keys().cloned().collect();
        let stale = |uid: &&PodUid| {
            // A pod whose sandbox is gone keeps its annotation: it runs nowhere.
            !annotated.contains(*uid) && self.labels.get(&index(uid)) == Some(&Label::Leave)
        };
        assert_eq!(self.annotated.iter().filter(stale).count(), 0, "annotated but not captured");
        assert!(annotated.is_subset(&self.annotated), "captured but not annotated");
        assert!(self.open_tickets.is_empty(), "unanswered: {:?}", self.open_tickets);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn captured_becomes_what_is_desired(
        adopted in prop::collection::vec(any::<bool>(), PODS),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut world = World::new(&adopted);
        for step in &steps {
            world.step(step);
        }
        world.settle();
        world.check_settled();
    }
}
