use super::*;

const UNIT: &str = "system.slice/kubelet.service";

/// A node with a `/proc` and a cgroup tree of its own.
struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(node.cgroup_root()).unwrap();
        std::fs::create_dir_all(node.proc().join("sys")).unwrap();
        node.process(1, "systemd", "init.scope");
        node
    }

    fn proc(&self) -> PathBuf {
        self.dir.path().join("proc")
    }

    fn cgroup_root(&self) -> PathBuf {
        self.dir.path().join("cgroup")
    }

    fn cgroup(&self, path: &str) -> PathBuf {
        self.cgroup_root().join(path)
    }

    /// A process of the node itself, root's, in a cgroup.
    fn process(&self, id: u32, program: &str, cgroup: &str) {
        let place = self.proc().join(id.to_string());
        std::fs::create_dir_all(place.join("ns")).unwrap();
        std::fs::write(place.join("comm"), format!("{program}\n")).unwrap();
        self.user(id, 0);
        self.started(id, 5);
        for name in NAMESPACES {
            self.namespace(id, name, 1);
        }
        std::fs::create_dir_all(self.cgroup(cgroup)).unwrap();
        let procs = self.cgroup(cgroup).join("cgroup.procs");
        let before = std::fs::read_to_string(&procs).unwrap_or_default();
        std::fs::write(procs, format!("{before}{id}\n")).unwrap();
    }

    fn user(&self, id: u32, user: u32) {
        let status = format!("Name:\tx\nUid:\t{user}\t{user}\t{user}\t{user}\nGid:\t0\t0\t0\t0\n");
        std::fs::write(self.proc().join(format!("{id}/status")), status).unwrap();
    }

    fn started(&self, id: u32, ticks: u32) {
        let stat = format!("{id} (x) S 1 7 7 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 {ticks} 1 2");
        std::fs::write(self.proc().join(format!("{id}/stat")), stat).unwrap();
    }

    fn namespace(&self, id: u32, name: &str, number: u32) {
        let link = self.proc().join(format!("{id}/ns/{name}"));
        drop(std::fs::remove_file(&link));
        std::os::unix::fs::symlink(format!("{name}:[{number}]"), link).unwrap();
    }

    fn ends(&self, id: u32, cgroup: &str) {
        std::fs::remove_dir_all(self.proc().join(id.to_string())).unwrap();
        std::fs::remove_dir_all(self.cgroup(cgroup)).unwrap();
    }

    fn search(&self) -> Search {
        Search::new(self.proc(), self.cgroup_root(), None)
    }

    fn look(&self) -> Kubelet {
        self.search().look(Instant::now()).unwrap()
    }

    fn kubelet_in(&self, path: &str) -> Kubelet {
        Kubelet::In(self.cgroup(path))
    }
}

#[test]
fn the_kubelet_is_found_as_every_distribution_runs_it() {
    for (program, cgroup) in [
        ("kubelet", UNIT),
        ("kubelet", "kubelet.slice/kubelet.service"),
        ("k3s-server", "system.slice/k3s.service"),
        ("kubelet", "system.slice/rke2-agent.service"),
        ("kubelite", "system.slice/snap.microk8s.daemon-kubelite.service"),
        ("kubelet", "somewhere/else"),
        ("k3s-server", "init"),
    ] {
        let node = Node::new();
        node.process(69, "containerd", "system.slice/containerd.service");
        node.process(70, program, cgroup);
        assert_eq!(node.look(), node.kubelet_in(cgroup), "{program} in {cgroup}");
    }
}

#[test]
fn a_process_of_a_pod_is_no_kubelet_under_any_driver() {
    let uid = "0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6";
    let slice = uid.replace('-', "_");
    for cgroup in [
        format!("kubepods/burstable/pod{uid}/0a1b"),
        format!("kubepods.slice/kubepods-pod{slice}.slice/cri-containerd-0a1b.scope"),
        format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{slice}.slice/a"),
        format!("kubepods.slice/kubepods-pod{slice}.slice/crio-0a1b.scope/kubelet.service"),
        "machine.slice/libpod-0a1b.scope".to_owned(),
        "docker/0a1b".to_owned(),
        format!("elsewhere/pod{uid}"),
    ] {
        let node = Node::new();
        // Even if it shares all of the node's namespaces, as a privileged pod may.
        node.process(700, "kubelet", &cgroup);
        assert_eq!(node.look(), Kubelet::Absent, "{cgroup}");
        node.process(70, "kubelet", UNIT);
        assert_eq!(node.look(), node.kubelet_in(UNIT), "{cgroup}");
    }
}

#[test]
fn a_process_in_a_namespace_of_its_own_is_no_kubelet() {
    for name in NAMESPACES {
        let node = Node::new();
        node.process(70, "kubelet", "system.slice/a.service");
        node.namespace(70, name, 2);
        assert_eq!(node.look(), Kubelet::Absent, "{name}");
    }
}

#[test]
fn a_process_of_another_user_or_name_is_no_kubelet() {
    let node = Node::new();
    node.process(70, "kubelet", "user.slice/a");
    node.user(70, 1000);
    node.process(71, "kubelet-helper", UNIT);
    assert_eq!(node.look(), Kubelet::Absent);
}

#[test]
fn the_unit_that_systemd_knows_is_meant_among_several() {
    let node = Node::new();
    node.process(70, "kubelet", "a");
    node.process(71, "kubelet", UNIT);
    assert_eq!(node.look(), node.kubelet_in(UNIT));
    // Two processes of one cgroup are one kubelet.
    node.process(72, "kubelet", UNIT);
    assert_eq!(node.look(), node.kubelet_in(UNIT));
    node.process(73, "k3s-server", "system.slice/k3s.service");
    let both = [node.cgroup("system.slice/k3s.service"), node.cgroup(UNIT)];
    assert_eq!(node.look(), Kubelet::Several(both.into()));
}

#[test]
fn several_without_a_unit_are_none() {
    let node = Node::new();
    node.process(70, "kubelet", "a");
    node.process(71, "kubelet", "b");
    assert_eq!(node.look(), Kubelet::Several(vec![node.cgroup("a"), node.cgroup("b")]));
}

#[test]
fn what_changes_is_found_at_the_next_look() {
    let node = Node::new();
    let (mut search, now) = (node.search(), Instant::now());
    assert_eq!(search.look(now).unwrap(), Kubelet::Absent);
    node.process(70, "kubelet", UNIT);
    assert_eq!(search.look(now).unwrap(), node.kubelet_in(UNIT));
    assert_eq!(search.look(now).unwrap(), node.kubelet_in(UNIT));
    node.ends(70, UNIT);
    assert_eq!(search.look(now).unwrap(), Kubelet::Absent);
    node.process(71, "kubelet", "other");
    assert_eq!(search.look(now).unwrap(), node.kubelet_in("other"));
    // Its number is another process's by now, which is elsewhere.
    node.ends(71, "other");
    node.process(71, "kubelet", "a");
    node.started(71, 9);
    assert_eq!(search.look(now).unwrap(), node.kubelet_in("a"));
    // It is not what it was.
    node.namespace(71, "net", 2);
    assert_eq!(search.look(now).unwrap(), Kubelet::Absent);
}

#[test]
fn a_second_one_is_found_though_the_first_is_as_it_was() {
    let node = Node::new();
    let (mut search, now) = (node.search(), Instant::now());
    node.process(70, "kubelet", "a");
    assert_eq!(search.look(now).unwrap(), node.kubelet_in("a"));
    node.process(71, "kubelet", "b");
    let both = Kubelet::Several(vec![node.cgroup("a"), node.cgroup("b")]);
    assert_eq!(search.look(now + LOOK_AROUND).unwrap(), both);
    assert_eq!(search.look(now + LOOK_AROUND).unwrap(), both);
}

#[test]
fn one_that_is_given_is_taken_while_it_is_there() {
    let node = Node::new();
    node.process(70, "kubelet", UNIT);
    let given = node.cgroup("given");
    let mut search = Search::new(node.proc(), node.cgroup_root(), Some(given.clone()));
    assert_eq!(search.look(Instant::now()).unwrap(), Kubelet::Absent);
    std::fs::create_dir(&given).unwrap();
    assert_eq!(search.look(Instant::now()).unwrap(), Kubelet::In(given));
}

#[test]
fn a_node_that_cannot_be_looked_at_is_an_error() {
    let node = Node::new();
    node.process(70, "kubelet", UNIT);
    let search = |proc, root| Search::new(proc, root, None).look(Instant::now());
    assert!(search(node.proc(), node.dir.path().join("none")).is_err());
    std::fs::remove_dir_all(node.proc().join("1")).unwrap();
    assert!(search(node.proc(), node.cgroup_root()).is_err());
}
