use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};

use super::*;
use crate::mesh::Account;
use crate::mesh::local::Exclusions;

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
        self.process_in(pid, started, cgroup, Path::new("/proc/self/ns/net"));
    }

    /// A process in the network namespace of a path.
    fn process_in(&self, pid: u32, started: u64, cgroup: &str, netns: &Path) {
        let directory = self.root.path().join(format!("proc/{pid}"));
        fs::create_dir_all(directory.join("ns")).expect("a directory");
        let stat = format!("{pid} (x) R 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {started} 1 2");
        fs::write(directory.join("stat"), stat).expect("written");
        fs::write(directory.join("cgroup"), format!("0::{cgroup}\n")).expect("written");
        std::os::unix::fs::symlink(netns, directory.join("ns/net")).expect("a link");
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

/// The UID of the pod with this number.
fn uid(number: u8) -> String {
    format!("0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5{number:02}")
}

fn uids(number: u8) -> Vec<PodUid> {
    vec![PodUid(uid(number).into())]
}

/// The directory of a pod's cgroup below `kubepods`.
fn pod(number: u8) -> String {
    format!("kubepods/burstable/pod{}", uid(number))
}

#[test]
fn processes_are_found_through_the_cgroup_tree() {
    let node = Node::new();
    node.cgroup(&pod(1), "");
    node.cgroup(&format!("{}/sandbox", pod(1)), "0\n10\n");
    node.cgroup(&format!("{}/app/deeper", pod(1)), "11\n");
    node.cgroup(&format!("{}/app", pod(2)), "12\n");
    let locator = node.locator(vec![]);
    assert_eq!(locator.processes(&uids(1)), [10, 11]);
    assert_eq!(locator.processes(&uids(3)), [] as [u32; 0]);
    let both = [uids(1), uids(2)].concat();
    assert_eq!(locator.processes(&both), [10, 11, 12]);
}

#[test]
fn processes_are_found_through_their_membership_where_the_tree_is_hidden() {
    let node = Node::new();
    let underscored = uid(1).replace('-', "_");
    let systemd = format!("/../../kubepods.slice/kubepods-pod{underscored}.slice/cri-1.scope");
    node.process(10, 1, &systemd);
    node.process(11, 1, &format!("/kubepods/pod{}/abc", uid(2)));
    let locator = node.locator(vec![]);
    assert_eq!(locator.processes(&uids(1)), [10]);
    assert_eq!(locator.processes(&uids(2)), [11]);
}

#[test]
fn a_cgroup_that_a_pod_makes_and_names_as_another_pods_is_its_own_still() {
    let node = Node::new();
    node.cgroup(&format!("{}/app/pod{}", pod(1), uid(2)), "10\n");
    assert_eq!(node.locator(vec![]).processes(&uids(2)), [] as [u32; 0]);
    assert_eq!(node.locator(vec![]).processes(&uids(1)), [10]);
    let hidden = Node::new();
    hidden.process(10, 1, &format!("/{}/app/pod{}", pod(1), uid(2)));
    assert_eq!(hidden.locator(vec![]).processes(&uids(2)), [] as [u32; 0]);
    assert_eq!(hidden.locator(vec![]).processes(&uids(1)), [10]);
}

fn local_pod(addresses: &[&str]) -> LocalPod {
    let all = || addresses.iter().map(|text| text.parse::<IpAddr>().expect("an address"));
    LocalPod {
        uid: PodUid(uid(1).into()),
        namespace: "shop".into(),
        name: "web".into(),
        account: Account::new("shop", "web").expect("an account"),
        ip4: all().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
        ip6: all().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
        exclusions: Exclusions::default(),
    }
}

/// What is found of the pod with a number, with `addresses`.
fn find(
    locator: &Locator,
    number: u8,
    preferred: Option<u64>,
    addresses: &[&str],
) -> Result<u64, LocateError> {
    locator.find(&uids(number), preferred, &local_pod(addresses)).map(|netns| netns.inode())
}

#[test]
fn the_namespace_of_a_pod_is_opened_and_the_hosts_refused() {
    let node = Node::new();
    node.cgroup(&format!("{}/a", pod(1)), "10\n11\n12\n");
    node.process(11, 5, "");
    node.process(12, 3, "");
    let own = Netns::current().expect("our namespace").inode();
    let ours = ["127.0.0.1"];
    assert_eq!(find(&node.locator(vec![]), 1, Some(own), &ours).ok(), Some(own));
    let refused = find(&node.locator(vec![own]), 1, None, &ours);
    assert!(matches!(refused, Err(LocateError::Host)), "{refused:?}");
    let absent = find(&node.locator(vec![]), 9, None, &ours);
    assert!(matches!(absent, Err(LocateError::NoProcess)), "{absent:?}");
}

#[test]
fn a_namespace_without_the_pods_address_is_not_its() {
    let node = Node::new();
    node.cgroup(&pod(1), "10\n");
    node.process(10, 1, "");
    let own = Netns::current().expect("our namespace").inode();
    for preferred in [None, Some(own)] {
        let found = find(&node.locator(vec![]), 1, preferred, &["192.0.2.1", "2001:db8::1"]);
        assert!(matches!(found, Err(LocateError::Stranger)), "{found:?}");
    }
}

/// With CRI-O the oldest process of a pod's cgroup is `conmon`, which stays in the host's namespace.
#[test]
fn a_monitor_in_the_hosts_namespace_is_passed_over() {
    let node = Node::new();
    let host = Netns::create().expect("root makes namespaces");
    let path = format!("/proc/{}/fd/{}", std::process::id(), host.as_fd().as_raw_fd());
    node.cgroup(&format!("{}/crio-conmon-1.scope", pod(1)), "10\n");
    node.cgroup(&format!("{}/crio-1.scope", pod(1)), "11\n");
    node.process_in(10, 1, "", Path::new(&path));
    node.process(11, 2, "");
    let own = Netns::current().expect("our namespace").inode();
    let locator = node.locator(vec![host.inode()]);
    assert_eq!(find(&locator, 1, None, &["127.0.0.1"]).ok(), Some(own));
}

#[test]
fn a_path_that_leads_elsewhere_by_now_is_refused() {
    let node = Node::new();
    let path = PathBuf::from("/proc/self/ns/net");
    let inode = Netns::current().expect("our namespace").inode();
    let reopen = |locator: Locator, told| {
        locator.reopen(&told, &local_pod(&["127.0.0.1"])).map(|netns| netns.inode())
    };
    let told = NetnsRef { path: path.clone(), inode };
    assert_eq!(reopen(node.locator(vec![]), told.clone()).ok(), Some(inode));
    let stranger = node.locator(vec![]).reopen(&told, &local_pod(&["192.0.2.1"]));
    assert!(matches!(stranger, Err(LocateError::Stranger)), "{stranger:?}");
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

#[test]
fn a_namespace_that_has_lost_the_pods_addresses_is_hollow_and_one_that_is_not_seen_is_not() {
    let node = Node::new();
    let own = Netns::current().expect("our own").inode();
    let told = |inode| NetnsRef { path: "/proc/self/ns/net".into(), inode };
    let (here, elsewhere) = (local_pod(&["127.0.0.1"]), local_pod(&["192.0.2.9"]));
    let locator = node.locator(vec![]);
    assert!(locator.is_hollow(Some(&told(own)), &uids(1), &elsewhere));
    assert!(!locator.is_hollow(Some(&told(own)), &uids(1), &here));
    // Another one by now, the host's, or none that anybody knows of.
    assert!(!locator.is_hollow(Some(&told(own + 1)), &uids(1), &elsewhere));
    assert!(!node.locator(vec![own]).is_hollow(Some(&told(own)), &uids(1), &elsewhere));
    assert!(!locator.is_hollow(None, &uids(1), &elsewhere));
    // By its processes.
    node.cgroup(&pod(1), "10\n");
    node.process(10, 1, "/");
    assert!(locator.is_hollow(None, &uids(1), &elsewhere));
    assert!(!locator.is_hollow(None, &uids(1), &here));
}
