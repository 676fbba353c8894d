use super::*;
use crate::enroll::{Departure, PodState, PodStatus};
use crate::mesh::Account;

fn uid() -> PodUid {
    PodUid("u-1".into())
}

fn pod() -> Arc<LocalPod> {
    Arc::new(LocalPod {
        uid: uid(),
        namespace: "shop".into(),
        name: "web".into(),
        account: Account::new("shop", "web").expect("an account"),
        ip4: Some([10, 0, 0, 1].into()),
        ip6: None,
        exclusions: Default::default(),
    })
}

fn netns(inode: u64) -> NetnsRef {
    NetnsRef { path: PathBuf::from(format!("/run/netns/{inode}")), inode }
}

fn snapshot(wish: Option<Wish>, annotated: bool) -> Input {
    let target = wish.map(|wish| {
        (uid(), Target { namespace: "shop".into(), name: "web".into(), wish, annotated })
    });
    Input::Snapshot(target.into_iter().collect())
}

fn enroll(annotated: bool) -> Input {
    snapshot(Some(Wish::Enroll(pod())), annotated)
}

fn leave(annotated: bool) -> Input {
    snapshot(Some(Wish::Leave), annotated)
}

fn add(ticket: u64, inode: u64) -> Input {
    let container = format!("c-{inode}");
    Input::CniAdd { ticket: Ticket(ticket), pod: pod(), container, netns: netns(inode) }
}

fn del(inode: u64) -> Input {
    Input::CniDel {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: None,
        container: format!("c-{inode}"),
        netns_inode: None,
    }
}

fn captured(inode: u64) -> Input {
    Input::Captured { uid: uid(), result: Ok(inode) }
}

fn failed(inode: u64) -> Input {
    let reason = "no".to_owned();
    Input::Captured {
        uid: uid(),
        result: Err(CaptureFailure::Failed { netns_inode: inode, reason }),
    }
}

fn released() -> Input {
    Input::Released { uid: uid(), result: Ok(()) }
}

fn annotated(enabled: bool) -> Input {
    Input::Annotated { uid: uid(), enabled, result: Ok(()) }
}

fn located(inodes: &[u64], bridge: Option<&str>) -> Input {
    let inside = Inside { bridge: bridge.map(str::to_owned), is_hollow: false };
    Input::Located { uid: uid(), netns_inodes: inodes.to_vec(), inside }
}

fn capture(netns: Option<NetnsRef>, held_in: Option<u64>) -> Action {
    Action::Capture { pod: pod(), netns, held_in }
}

fn release() -> Action {
    Action::Release { uid: uid(), departure: Departure::Meant }
}

fn release_of_the_vanished() -> Action {
    Action::Release { uid: uid(), departure: Departure::Vanished }
}

fn annotate(enabled: bool) -> Action {
    Action::Annotate { uid: uid(), namespace: "shop".into(), name: "web".into(), enabled }
}

fn answer(ticket: u64) -> Action {
    Action::Answer { ticket: Ticket(ticket), result: Ok(()) }
}

struct Test {
    machine: Machine,
    now: Instant,
}

impl Test {
    fn new() -> Self {
        Self { machine: Machine::new(Timing::default()), now: Instant::now() }
    }

    fn captured_pod() -> Self {
        let mut test = Self::new();
        test.check(enroll(false), &[capture(None, None)]);
        test.check(captured(7), &[annotate(true)]);
        test.check(annotated(true), &[]);
        test.check(enroll(true), &[]);
        test
    }

    #[track_caller]
    fn check(&mut self, input: Input, expected: &[Action]) {
        assert_eq!(self.machine.handle(input, self.now), expected);
    }

    #[track_caller]
    fn check_after(&mut self, pause: Duration, expected: &[Action]) {
        self.now += pause;
        self.check(Input::Tick, expected);
    }

    #[track_caller]
    fn check_state(&self, expected: Option<PodState>) {
        assert_eq!(self.machine.status().first().map(|pod| pod.state), expected);
    }
}

#[test]
fn a_running_pod_is_captured_then_annotated() {
    let test = Test::captured_pod();
    test.check_state(Some(PodState::Captured));
}

#[test]
fn cni_add_is_answered_after_the_capture() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
}

#[test]
fn cni_add_again_in_the_same_namespace_is_answered_at_once() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    test.check(add(2, 7), &[answer(2)]);
}

#[test]
fn cni_add_in_another_namespace_releases_first() {
    let mut test = Test::captured_pod();
    test.check(add(1, 8), &[release()]);
    test.check(released(), &[capture(Some(netns(8)), None)]);
    test.check(captured(8), &[answer(1)]);
}

#[test]
fn a_failed_capture_fails_the_add_and_is_tried_again_with_backoff() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    let refused = Action::Answer { ticket: Ticket(1), result: Err("no".to_owned()) };
    test.check(failed(7), &[refused]);
    test.check_after(Duration::from_millis(249), &[]);
    test.check_after(Duration::from_millis(1), &[capture(Some(netns(7)), Some(7))]);
    test.check(failed(7), &[]);
    test.check_after(Duration::from_millis(499), &[]);
    test.check_after(Duration::from_millis(1), &[capture(Some(netns(7)), Some(7))]);
    test.check(captured(7), &[annotate(true)]);
}

#[test]
fn a_namespace_path_that_went_stale_gives_way_to_the_pods_processes() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    let gone = Err(CaptureFailure::NotLocated("gone".to_owned()));
    let refused = Action::Answer { ticket: Ticket(1), result: Err("gone".to_owned()) };
    test.check(Input::Captured { uid: uid(), result: gone }, &[refused]);
    test.check_after(Duration::from_millis(250), &[capture(None, None)]);
}

#[test]
fn an_unlabelled_pod_loses_its_annotation_then_time_passes_then_its_capture() {
    let mut test = Test::captured_pod();
    test.check(leave(true), &[annotate(false)]);
    test.check_state(Some(PodState::Leaving));
    test.check(annotated(false), &[]);
    test.check_after(Duration::from_millis(1999), &[]);
    test.check_after(Duration::from_millis(1), &[release()]);
    test.check(released(), &[]);
    test.check_state(None);
}

#[test]
fn a_pod_leaves_even_if_its_annotation_cannot_be_removed() {
    let mut test = Test::captured_pod();
    test.check(leave(true), &[annotate(false)]);
    test.check_after(Duration::from_secs(10), &[release()]);
}

#[test]
fn a_pod_that_comes_back_while_leaving_stays() {
    let mut test = Test::captured_pod();
    test.check(leave(true), &[annotate(false)]);
    test.check(annotated(false), &[]);
    test.check(enroll(false), &[annotate(true)]);
    test.check_after(Duration::from_secs(5), &[]);
    test.check_state(Some(PodState::Captured));
}

#[test]
fn a_pod_that_is_gone_is_released_at_once_and_not_annotated() {
    let mut test = Test::captured_pod();
    test.check(snapshot(None, false), &[release_of_the_vanished()]);
    test.check(released(), &[]);
    assert!(test.machine.pods.is_empty());
}

#[test]
fn a_pod_that_vanished_but_runs_on_stays_held_until_its_sandbox_goes() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    test.check(annotated(true), &[]);
    test.check(enroll(true), &[]);
    test.check(snapshot(None, false), &[release_of_the_vanished()]);
    let runs_on = "it still has its addresses".to_owned();
    test.check(Input::Released { uid: uid(), result: Err(runs_on) }, &[]);
    test.check_state(Some(PodState::Leaving));
    test.check(del(7), &[]);
    test.now += Timing::default().retry_most;
    test.check(Input::Tick, &[release()]);
    test.check(released(), &[]);
    assert!(test.machine.pods.is_empty());
}

#[test]
fn a_pod_the_api_does_not_list_yet_is_kept_after_cni_add() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    test.check(snapshot(None, false), &[]);
    test.now += Duration::from_secs(60);
    test.check(snapshot(None, false), &[release_of_the_vanished()]);
}

#[test]
fn a_pod_without_an_address_yet_keeps_its_capture() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    test.check(snapshot(Some(Wish::Keep), false), &[]);
    test.check_state(Some(PodState::Captured));
}

#[test]
fn the_runtimes_addresses_win_over_those_of_the_status() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    let late = LocalPod { ip4: None, ..LocalPod::clone(&pod()) };
    test.check(snapshot(Some(Wish::Enroll(Arc::new(late))), false), &[]);
}

#[test]
fn a_changed_annotation_of_exclusions_captures_again_in_place() {
    let mut test = Test::captured_pod();
    let mut changed = LocalPod::clone(&pod());
    changed.exclusions.outbound_ports = vec![5432];
    let changed = Arc::new(changed);
    let again = Action::Capture { pod: Arc::clone(&changed), netns: None, held_in: Some(7) };
    test.check(snapshot(Some(Wish::Enroll(changed)), true), &[again]);
}

#[test]
fn cni_del_releases_at_once_and_the_pod_is_looked_for_later() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(captured(7), &[answer(1), annotate(true)]);
    test.check(del(7), &[release()]);
    test.check(released(), &[]);
    test.check_after(Duration::from_secs(5), &[capture(None, None)]);
}

#[test]
fn cni_del_of_an_older_sandbox_changes_nothing() {
    let mut test = Test::new();
    test.check(add(1, 8), &[capture(Some(netns(8)), None)]);
    test.check(captured(8), &[answer(1), annotate(true)]);
    test.check(del(7), &[]);
}

#[test]
fn cni_del_of_a_sandbox_long_dead_does_not_free_a_pod_that_nobody_attached() {
    Test::captured_pod().check(del(6), &[]);
    let mut test = Test::new();
    test.check(Input::Adopted(vec![AdoptedPod { uid: uid(), netns_inode: 7 }]), &[]);
    test.check(enroll(true), &[capture(None, Some(7))]);
    test.check(captured(7), &[]);
    test.check(del(6), &[]);
}

#[test]
fn cni_del_during_the_capture_fails_the_add_and_releases_after() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.check(add(2, 7), &[]);
    let down = Err("the sandbox is being taken down".to_owned());
    test.check(del(7), &[Action::Answer { ticket: Ticket(2), result: down }]);
    let actions = test.machine.handle(captured(7), test.now);
    assert_eq!(actions.last(), Some(&release()));
}

#[test]
fn nothing_adopted_is_touched_before_the_first_snapshot() {
    let mut test = Test::new();
    let adopted = vec![AdoptedPod { uid: uid(), netns_inode: 7 }];
    test.check(Input::Adopted(adopted), &[]);
    test.check_after(Duration::from_secs(600), &[]);
    test.check_state(Some(PodState::Adopted));
    test.check(enroll(true), &[capture(None, Some(7))]);
}

#[test]
fn an_adopted_pod_that_moved_is_released_then_captured() {
    let mut test = Test::new();
    test.check(Input::Adopted(vec![AdoptedPod { uid: uid(), netns_inode: 7 }]), &[]);
    test.check(enroll(true), &[capture(None, Some(7))]);
    let moved = Input::Captured { uid: uid(), result: Err(CaptureFailure::Moved) };
    test.check(moved, &[release()]);
    test.check(released(), &[capture(None, None)]);
    test.check(captured(8), &[]);
}

#[test]
fn an_adopted_pod_that_is_not_ours_any_more_is_released_without_delay() {
    let mut test = Test::new();
    test.check(Input::Adopted(vec![AdoptedPod { uid: uid(), netns_inode: 7 }]), &[]);
    test.check(leave(true), &[annotate(false), release()]);
}

#[test]
fn an_adopted_pod_that_is_gone_is_released() {
    let mut test = Test::new();
    test.check(Input::Adopted(vec![AdoptedPod { uid: uid(), netns_inode: 7 }]), &[]);
    test.check(snapshot(None, false), &[release_of_the_vanished()]);
}

#[test]
fn an_annotation_left_behind_is_removed() {
    let mut test = Test::new();
    test.check(leave(true), &[annotate(false)]);
    test.check(annotated(false), &[]);
    test.check(leave(false), &[]);
    test.check_state(None);
}

#[test]
fn an_annotation_that_says_enabled_does_not_make_a_pod_captured() {
    let mut test = Test::new();
    test.check(enroll(true), &[capture(None, None)]);
    test.check(captured(7), &[]);
}

#[test]
fn an_annotation_somebody_removed_is_written_again() {
    let mut test = Test::captured_pod();
    test.check(enroll(false), &[]);
    test.check_after(Duration::from_secs(5), &[annotate(true)]);
}

#[test]
fn a_snapshot_older_than_our_annotation_does_not_make_us_write_it_twice() {
    let mut test = Test::new();
    test.check(enroll(false), &[capture(None, None)]);
    test.check(captured(7), &[annotate(true)]);
    test.check(enroll(false), &[]);
    test.check(annotated(true), &[]);
    test.check(enroll(false), &[]);
    test.check(enroll(true), &[]);
    test.check_after(Duration::from_secs(5), &[]);
}

#[test]
fn a_captured_pod_is_looked_up_now_and_then_and_follows_its_namespace() {
    let mut test = Test::captured_pod();
    test.now += Duration::from_secs(60);
    test.check(enroll(true), &[Action::Locate { pod: pod(), netns: None }]);
    test.check(located(&[7, 9], None), &[]);
    test.check_after(Duration::from_secs(60), &[Action::Locate { pod: pod(), netns: None }]);
    test.check(located(&[], None), &[]);
    test.check_after(Duration::from_secs(60), &[Action::Locate { pod: pod(), netns: None }]);
    test.check(located(&[8], None), &[release()]);
    test.check(released(), &[capture(None, None)]);
}

#[test]
fn a_failed_release_is_tried_again() {
    let mut test = Test::captured_pod();
    test.check(snapshot(None, false), &[release_of_the_vanished()]);
    test.check(Input::Released { uid: uid(), result: Err("busy".to_owned()) }, &[]);
    test.check_after(Duration::from_millis(250), &[release_of_the_vanished()]);
    test.check(released(), &[]);
    assert!(test.machine.pods.is_empty());
}

#[test]
fn a_pod_nobody_asks_for_needs_no_state_and_no_wake_up() {
    let mut test = Test::new();
    test.check(leave(false), &[]);
    assert!(test.machine.pods.is_empty());
    assert_eq!(test.machine.wake(), None);
}

#[test]
fn a_pod_that_cannot_be_captured_is_told_of_once_and_held_against_nobody() {
    let mut test = Test::new();
    test.machine.handle(enroll(false), test.now);
    let mut reports = 0;
    for _ in 0..6 {
        let settled = test.machine.status().iter().all(PodStatus::is_settled);
        assert!(!settled || reports > 0, "it may still be captured");
        let actions = test.machine.handle(failed(7), test.now);
        reports += actions.iter().filter(|a| matches!(a, Action::Report { .. })).count();
        test.now += Duration::from_secs(60);
        test.machine.handle(Input::Tick, test.now);
    }
    assert_eq!(reports, 1);
    let status = test.machine.status();
    assert_eq!((status[0].state, status[0].trouble.as_deref()), (PodState::Pending, Some("no")));
    assert!(status[0].is_settled());
    // Also if the runtime tries again and again.
    test.machine.handle(add(1, 8), test.now);
    assert!(test.machine.status()[0].is_settled());
    test.machine.handle(captured(8), test.now);
    assert_eq!(test.machine.status()[0].trouble, None);
}

#[test]
fn a_pod_whose_runtime_takes_its_addresses_is_not_announced_and_told_of_once() {
    let mut test = Test::new();
    test.check(add(1, 7), &[capture(Some(netns(7)), None)]);
    test.machine.handle(enroll(false), test.now);
    test.machine.handle(captured(7), test.now);
    test.machine.handle(annotated(true), test.now);
    test.now += Timing::default().first_look;
    let looked = test.machine.handle(enroll(true), test.now);
    assert!(matches!(&looked[..], [Action::Locate { netns: Some(_), .. }]), "{looked:?}");
    let inside = Inside { bridge: None, is_hollow: true };
    let seen = Input::Located { uid: uid(), netns_inodes: Vec::new(), inside };
    let report = Action::Report {
        uid: uid(),
        namespace: "shop".into(),
        name: "web".into(),
        trouble: Trouble::Hollow,
    };
    test.check(seen, &[report, annotate(false), release()]);
    test.machine.handle(annotated(false), test.now);
    assert!(test.machine.status().iter().all(PodStatus::is_settled));
    let mut later = test.machine.handle(released(), test.now);
    for _ in 0..8 {
        let reason = "none of the pod's addresses are there".to_owned();
        let result = Err(CaptureFailure::NotLocated(reason));
        later.extend(test.machine.handle(Input::Captured { uid: uid(), result }, test.now));
        test.now += Duration::from_secs(60);
        later.extend(test.machine.handle(enroll(false), test.now));
    }
    assert!(later.iter().all(|action| matches!(action, Action::Capture { .. })), "{later:?}");
    // They are there again.
    test.check(captured(7), &[annotate(true)]);
}

#[test]
fn a_captured_pod_that_forwards_for_others_is_told_of_once() {
    let mut test = Test::captured_pod();
    test.check(located(&[7], None), &[]);
    let report = Action::Report {
        uid: uid(),
        namespace: "shop".into(),
        name: "web".into(),
        trouble: Trouble::Forwards("docker0".to_owned()),
    };
    test.check(located(&[7], Some("docker0")), &[report]);
    test.check(located(&[7], Some("docker0")), &[]);
    test.check_state(Some(PodState::Captured));
}

#[test]
fn a_pod_that_has_no_sandbox_yet_is_not_waited_for() {
    let mut test = Test::new();
    test.machine.handle(snapshot(Some(Wish::Keep), false), test.now);
    let status = test.machine.status();
    assert_eq!(status[0].state, PodState::Pending);
    assert!(status[0].is_settled());
}

#[test]
fn enrolment_is_broken_when_several_pods_fail_and_none_is_captured() {
    let one = |name: &str, state, trouble: Option<&str>| PodStatus {
        uid: PodUid(name.into()),
        pod: None,
        state,
        trouble: trouble.map(Into::into),
    };
    let of = |pods| crate::enroll::Status { pods, ..Default::default() };
    let bad = |name| one(name, PodState::Pending, Some("no"));
    assert_eq!(of(vec![bad("a")]).broken(), None, "that is a pod's own");
    assert_eq!(of(vec![bad("a"), bad("b")]).broken(), Some("no"));
    let good = one("c", PodState::Captured, None);
    assert_eq!(of(vec![bad("a"), bad("b"), good]).broken(), None);
    assert_eq!(of(vec![bad("a")]).troubles().as_deref(), Some("pods in trouble: 1; a: no"));
}

#[test]
fn what_is_adopted_goes_on_as_what_it_was_before_the_api_server_answers() {
    let mut test = Test::new();
    let adopted = AdoptedPod { uid: uid(), netns_inode: 7 };
    test.check(Input::Adopted(vec![adopted]), &[]);
    let stranger = LocalPod { uid: PodUid("u-2".into()), ..LocalPod::clone(&pod()) };
    let known = Input::Remembered(vec![pod(), Arc::new(stranger)]);
    test.machine.handle(captured(9), test.now);
    let actions = test.machine.handle(known, test.now);
    assert_eq!(actions, [capture(None, Some(7))], "and of what the kernel does not hold, nothing");
    test.machine.handle(captured(7), test.now);
    assert_eq!(test.machine.status()[0].state, PodState::Captured);
    // The API server has the last word.
    let actions = test.machine.handle(Input::Snapshot(HashMap::new()), test.now);
    assert!(actions.contains(&release_of_the_vanished()), "{actions:?}");
}
