use super::*;

fn check_name(name: &str, uid: &str, expected: bool) {
    assert_eq!(names_pod(name, &PodUid(uid.into())), expected, "{name} {uid}");
}

#[test]
fn a_pods_cgroup_is_found_under_every_driver() {
    let uid = "0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6";
    let underscored = uid.replace('-', "_");
    check_name(&format!("pod{uid}"), uid, true);
    check_name(&format!("kubepods-pod{underscored}.slice"), uid, true);
    check_name(&format!("kubepods-burstable-pod{underscored}.slice"), uid, true);
    check_name(&format!("kubelet-kubepods-besteffort-pod{underscored}.slice"), uid, true);
    check_name(uid, uid, true);
    check_name("kubepods-burstable-pod6c1e0d9a7f.slice", "6c1e0d9a7f", true);
    check_name("kubepods-burstable.slice", uid, false);
    check_name(&format!("pod{uid}0"), uid, false);
    check_name(&format!("cri-containerd-{uid}.scope"), uid, false);
    check_name("pod", "", false);
    check_name("", "", false);
}

#[test]
fn a_process_name_cannot_forge_its_start_time() {
    let stat = "7 (a) S 9 (b) 1 2) R 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2";
    assert_eq!(start_time(stat), Some(12345));
    assert_eq!(start_time("7 (sh) R 1"), None);
    assert_eq!(start_time(""), None);
}

/// A node with a `/proc` and a cgroup tree of its own; every process is in our namespace.
struct Node {
    root: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        for directory in ["proc", "cgroup/kubepods/burstable"] {
            fs::create_dir_all(root.path().join(directory)).expect("a directory");
        }
        Self { root }
    }

    fn process(&self, pid: u32, started: u64, cgroup: &str) {
        let directory = self.root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(directory.join("ns")).expect("a directory");
        let stat = format!("{pid} (x) R 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {started} 1 2");
        fs::write(directory.join("stat"), stat).expect("written");
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).expect("written");
        std::os::unix::fs::symlink("/proc/self/ns/net", directory.join("ns/net")).expect("a link");
    }

    fn cgroup(&self, path: &str, pids: &str) {
        let directory = self.root.path().join("cgroup").join(path);
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("cgroup.procs"), pids).expect("written");
    }

    fn locator(&self, host_inodes: Vec<u64>) -> Locator {
        let path = self.root.path();
        Locator::excluding(path.join("cgroup"), path.join("proc"), host_inodes)
    }
}

fn uids(uid: &str) -> Vec<PodUid> {
    vec![PodUid(uid.into())]
}

#[test]
fn processes_are_found_through_the_cgroup_tree() {
    let node = Node::new();
    node.cgroup("kubepods/burstable/podu-1", "");
    node.cgroup("kubepods/burstable/podu-1/sandbox", "0\n10\n");
    node.cgroup("kubepods/burstable/podu-1/app/deeper", "11\n");
    node.cgroup("kubepods/burstable/podu-2/app", "12\n");
    let locator = node.locator(vec![]);
    assert_eq!(locator.processes(&uids("u-1")), [10, 11]);
    assert_eq!(locator.processes(&uids("u-3")), [] as [u32; 0]);
    let both = [uids("u-1"), uids("u-2")].concat();
    assert_eq!(locator.processes(&both), [10, 11, 12]);
}

#[test]
fn processes_are_found_through_their_membership_where_the_tree_is_hidden() {
    let node = Node::new();
    node.process(10, 1, "/kubepods.slice/kubepods-podu_1.slice/cri-containerd-abc.scope");
    node.process(11, 1, "/kubepods/podu-2/abc");
    let locator = node.locator(vec![]);
    assert_eq!(locator.processes(&uids("u-1")), [10]);
    assert_eq!(locator.processes(&uids("u-2")), [11]);
}

#[test]
fn the_namespace_of_a_pod_is_opened_and_the_hosts_refused() {
    let node = Node::new();
    node.cgroup("kubepods/podu-1/a", "10\n11\n12\n");
    node.process(11, 5, "");
    node.process(12, 3, "");
    let own = Netns::current().expect("our namespace").inode();
    let found = node.locator(vec![]).find(&uids("u-1"), Some(own)).expect("found");
    assert_eq!(found.inode(), own);
    let refused = node.locator(vec![own]).find(&uids("u-1"), None);
    assert!(matches!(refused, Err(LocateError::Host)), "{refused:?}");
    let absent = node.locator(vec![]).find(&uids("u-9"), None);
    assert!(matches!(absent, Err(LocateError::NoProcess)), "{absent:?}");
}

#[test]
fn a_path_that_leads_elsewhere_by_now_is_refused() {
    let node = Node::new();
    let path = PathBuf::from("/proc/self/ns/net");
    let inode = Netns::current().expect("our namespace").inode();
    let reopen = |locator: Locator, told| locator.reopen(&told).map(|netns| netns.inode());
    let told = NetnsRef { path: path.clone(), inode };
    assert_eq!(reopen(node.locator(vec![]), told.clone()).ok(), Some(inode));
    let host = reopen(node.locator(vec![inode]), told);
    assert!(matches!(host, Err(LocateError::Host)), "{host:?}");
    let other = reopen(node.locator(vec![]), NetnsRef { path, inode: inode + 1 });
    assert!(matches!(other, Err(LocateError::Replaced { .. })), "{other:?}");
    let gone = NetnsRef { path: PathBuf::from("/nonexistent"), inode };
    let gone = reopen(node.locator(vec![]), gone);
    assert!(matches!(gone, Err(LocateError::Open { .. })), "{gone:?}");
    let file = NetnsRef { path: PathBuf::from("/etc/hostname"), inode };
    let file = reopen(node.locator(vec![]), file);
    assert!(matches!(file, Err(LocateError::Open { .. })), "{file:?}");
}
