//! Nodes of every distribution, as folders: what runs there, what it is told, and where its network is.

use super::*;

/// A node.
struct Row {
    name: &'static str,
    /// Programs, their arguments and the cgroups that they are in.
    runs: &'static [(&'static str, &'static str, &'static str)],
    files: &'static [(&'static str, &'static str)],
    dirs: &'static [&'static str],
    expected: (&'static str, &'static str),
}

const SYSTEMD: &str = "/system.slice/containerd.service";
const VERSION_2: &str = r#"version = 2
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#;

const ROWS: &[Row] = &[
    Row {
        name: "k3s",
        runs: &[
            ("k3s-server", "", "/system.slice/k3s.service"),
            (
                "containerd",
                "-c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
                "/system.slice/k3s.service",
            ),
        ],
        files: &[(
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\n\
             bin_dirs = [\"/var/lib/rancher/k3s/data/cni\"]\n\
             conf_dir = \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"\n",
        )],
        dirs: &["var/lib/rancher/k3s/data/cni"],
        expected: ("/var/lib/rancher/k3s/data/cni", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    },
    Row {
        name: "k3s before 1.31.4",
        runs: &[(
            "containerd",
            "-c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "/system.slice/k3s.service",
        )],
        files: &[(
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/var/lib/rancher/k3s/data/8307/bin\"\n\
             conf_dir = \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"\n",
        )],
        dirs: &[],
        expected: (
            "/var/lib/rancher/k3s/data/8307/bin",
            "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        ),
    },
    Row {
        name: "k3d",
        runs: &[("containerd", "-c /var/lib/rancher/k3s/agent/etc/containerd/config.toml", "/")],
        files: &[(
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/bin\"\nconf_dir = \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"\n",
        )],
        dirs: &["bin"],
        expected: ("/bin", "/var/lib/rancher/k3s/agent/etc/cni/net.d"),
    },
    Row {
        name: "k3s beside Docker, whose containerd starts no pods",
        runs: &[
            ("containerd", "", SYSTEMD),
            (
                "containerd",
                "-c /var/lib/rancher/k3s/agent/etc/containerd/config.toml",
                "/system.slice/k3s.service",
            ),
        ],
        files: &[
            ("etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n"),
            (
                "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
                 bin_dir = \"/var/lib/rancher/k3s/data/current/bin\"\n\
                 conf_dir = \"/var/lib/rancher/k3s/agent/etc/cni/net.d\"\n",
            ),
        ],
        dirs: &[],
        expected: (
            "/var/lib/rancher/k3s/data/current/bin",
            "/var/lib/rancher/k3s/agent/etc/cni/net.d",
        ),
    },
    Row {
        name: "kind",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[("etc/containerd/config.toml", VERSION_2)],
        dirs: &[],
        expected: (BIN_DIR, CONF_DIR),
    },
    Row {
        name: "MicroK8s",
        runs: &[(
            "containerd",
            "--config /var/snap/microk8s/8511/args/containerd.toml --root /var/snap/microk8s/common/var/lib/containerd",
            "/system.slice/snap.microk8s.daemon-containerd.service",
        )],
        files: &[(
            "var/snap/microk8s/8511/args/containerd.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/var/snap/microk8s/8511/opt/cni/bin\"\n\
             conf_dir = \"/var/snap/microk8s/8511/args/cni-network\"\n",
        )],
        dirs: &[],
        expected: (
            "/var/snap/microk8s/8511/opt/cni/bin",
            "/var/snap/microk8s/8511/args/cni-network",
        ),
    },
    Row {
        name: "minikube, containerd",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[(
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.mk\"\n",
        )],
        dirs: &[],
        expected: ("/opt/cni/bin", "/etc/cni/net.mk"),
    },
    Row {
        name: "minikube, Docker",
        runs: &[
            ("containerd", "", SYSTEMD),
            ("dockerd", "-H fd://", "/system.slice/docker.service"),
            (
                "cri-dockerd",
                "--container-runtime-endpoint fd:// --network-plugin=cni --hairpin-mode=hairpin-veth",
                "/system.slice/cri-docker.service",
            ),
        ],
        files: &[(
            "etc/containerd/config.toml",
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n",
        )],
        dirs: &[],
        expected: (BIN_DIR, CONF_DIR),
    },
    Row {
        name: "GKE",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[(
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/home/kubernetes/bin\"\nconf_dir = \"/etc/cni/net.d\"\n",
        )],
        dirs: &[],
        expected: ("/home/kubernetes/bin", "/etc/cni/net.d"),
    },
    Row {
        name: "EKS",
        runs: &[("containerd", "", "/runtime.slice/containerd.service")],
        files: &[
            (
                "etc/containerd/config.toml",
                "version = 2\nimports = [\"/etc/containerd/config.d/*.toml\"]\n\
                 [plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
                 bin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\n",
            ),
            ("etc/containerd/config.d/README", "not TOML"),
            ("etc/containerd/config.d/00-nvidia.toml", VERSION_2),
        ],
        dirs: &[],
        expected: ("/opt/cni/bin", "/etc/cni/net.d"),
    },
    Row {
        name: "AKS",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[(
            "etc/containerd/config.toml",
            "version = 2\noom_score = -999\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\n\
             bin_dir = \"/opt/cni/bin\"\nconf_dir = \"/etc/cni/net.d\"\nconf_template = \"\"\n",
        )],
        dirs: &[],
        expected: ("/opt/cni/bin", "/etc/cni/net.d"),
    },
    Row {
        name: "OpenShift",
        runs: &[
            ("crio", "", "/system.slice/crio.service"),
            // A build in a pod brings one of its own.
            (
                "containerd",
                "",
                "/kubepods.slice/kubepods-pod0f0e8a3c_1b2d_4c5e_8f90_a1b2c3d4e5f6.slice/crio-0a1b.scope",
            ),
        ],
        files: &[(
            "etc/crio/crio.conf.d/00-default",
            "[crio.network]\nnetwork_dir = \"/etc/kubernetes/cni/net.d/\"\n\
             plugin_dirs = [\"/var/lib/cni/bin\", \"/usr/libexec/cni\"]\n",
        )],
        dirs: &["var/lib/cni/bin", "usr/libexec/cni"],
        expected: ("/var/lib/cni/bin", "/etc/kubernetes/cni/net.d/"),
    },
    Row {
        name: "CRI-O, told by a later file",
        runs: &[("crio", "--config-dir=/etc/crio/more", "/system.slice/crio.service")],
        files: &[
            ("etc/crio/crio.conf", "[crio.network]\nplugin_dirs = [\"/opt/cni/bin\"]\n"),
            (
                "etc/crio/more/10-dirs.conf",
                "[crio.network]\nplugin_dirs = [\"/usr/libexec/cni\"]\n",
            ),
        ],
        dirs: &[],
        expected: ("/usr/libexec/cni", CONF_DIR),
    },
    Row {
        name: "RKE2",
        runs: &[(
            "containerd",
            "-c /var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            "/system.slice/rke2-server.service",
        )],
        files: &[(
            "var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nenable_selinux = false\n",
        )],
        dirs: &[],
        expected: (BIN_DIR, CONF_DIR),
    },
    Row {
        name: "k0s",
        runs: &[(
            "containerd",
            "--root=/var/lib/k0s/containerd --state=/run/k0s/containerd --address=/run/k0s/containerd.sock --config=/etc/k0s/containerd.toml",
            "/system.slice/k0sworker.service",
        )],
        files: &[
            (
                "etc/k0s/containerd.toml",
                "version = 2\nimports = [\"/run/k0s/containerd-cri.toml\"]\n",
            ),
            (
                "run/k0s/containerd-cri.toml",
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/opt/cni/bin\"\n",
            ),
        ],
        dirs: &[],
        expected: ("/opt/cni/bin", CONF_DIR),
    },
    Row {
        name: "Debian's containerd",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[(
            "etc/containerd/config.toml",
            "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    \
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\n      bin_dir = \"/usr/lib/cni\"\n      \
             conf_dir = \"/etc/cni/net.d\"\n",
        )],
        dirs: &["usr/lib/cni"],
        expected: ("/usr/lib/cni", "/etc/cni/net.d"),
    },
    Row {
        name: "containerd without a file",
        runs: &[("containerd", "", SYSTEMD)],
        files: &[],
        dirs: &[],
        expected: (BIN_DIR, CONF_DIR),
    },
    Row {
        name: "beside a node in a container, whose files are others",
        runs: &[
            ("containerd", "", SYSTEMD),
            ("containerd", "--config=/etc/kubernetes/containerd.toml", "/other.slice"),
        ],
        files: &[(
            "etc/containerd/config.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\n",
        )],
        dirs: &[],
        expected: ("/usr/lib/cni", CONF_DIR),
    },
    Row {
        name: "a runtime that is down, told by its file",
        runs: &[],
        files: &[(
            "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "version = 1\n[plugins.cri.cni]\nbin_dir = \"/bin\"\nconf_dir = \"/k3s/net.d\"\n",
        )],
        dirs: &[],
        expected: ("/bin", "/k3s/net.d"),
    },
];

/// The folder of a node.
fn node(row: &Row) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/1/comm", "systemd\n");
    write("proc/meminfo", "");
    write("etc/hostname", "");
    for (at, (program, arguments, cgroup)) in row.runs.iter().enumerate() {
        let words = arguments.replace(' ', "\0");
        write(&format!("proc/10{at}/comm"), &format!("{program}\n"));
        write(&format!("proc/10{at}/cmdline"), &format!("/usr/bin/{program}\0{words}\0"));
        write(&format!("proc/10{at}/cgroup"), &format!("0::{cgroup}\n"));
    }
    row.files.iter().for_each(|(path, text)| write(path, text));
    for made in row.dirs {
        std::fs::create_dir_all(dir.path().join(made)).unwrap();
    }
    dir
}

#[test]
fn every_distribution_s_directories_are_found() {
    for row in ROWS {
        let dir = node(row);
        let found = find(&Host::at(dir.path())).unwrap_or_else(|e| panic!("{}: {e}", row.name));
        let (bin_dir, conf_dir) = row.expected;
        assert_eq!(
            (found.bin_dir, found.conf_dir),
            (bin_dir.into(), conf_dir.into()),
            "{}",
            row.name
        );
    }
}

#[test]
fn of_two_runtimes_the_one_with_a_network_is_meant() {
    let row = Row {
        name: "two",
        runs: &[
            ("containerd", "", SYSTEMD),
            ("containerd", "--config=/etc/k0s/containerd.toml", "/system.slice/k0sworker.service"),
        ],
        files: &[(
            "etc/k0s/containerd.toml",
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_dir = \"/etc/k0s/net.d\"\n",
        )],
        dirs: &["etc/k0s/net.d"],
        expected: (BIN_DIR, "/etc/k0s/net.d"),
    };
    let dir = node(&row);
    let host = Host::at(dir.path());
    let error = find(&host).unwrap_err().to_string();
    assert!(error.contains("several") && error.contains("--conf-dir"), "{error}");
    std::fs::write(dir.path().join("etc/k0s/net.d/10-a.conflist"), "{}").unwrap();
    assert_eq!(find(&host).unwrap().conf_dir, Path::new(row.expected.1));
}

#[test]
fn nothing_is_guessed() {
    let row = Row { name: "none", runs: &[], files: &[], dirs: &[], expected: ("", "") };
    let dir = node(&row);
    let host = Host::at(dir.path());
    assert!(matches!(find(&host), Err(LayoutError::NoRuntime)));
    std::fs::create_dir_all(dir.path().join("etc/containerd")).unwrap();
    std::fs::write(dir.path().join("etc/containerd/config.toml"), "plugins = {").unwrap();
    assert!(matches!(find(&host), Err(LayoutError::Broken { .. })));
    std::fs::remove_dir_all(dir.path().join("etc")).unwrap();
    assert!(matches!(find(&host), Err(LayoutError::NoFiles)));
}
