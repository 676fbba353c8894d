//! Which cgroups are pods' and containers', by their names under each driver of the kubelet and each runtime.

/// The UID of the pod whose cgroup has this name: `pod<uid>` (cgroupfs driver) or
/// `kubepods-burstable-pod<uid with underscores>.slice` (systemd driver).
///
/// A UID is one of the API server's (RFC 9562), or the 32 hexadecimal digits that a kubelet gives a static pod.
pub fn pod_uid(name: &str) -> Option<String> {
    let id = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    (is_uuid(&id) || is_hash(&id)).then_some(id)
}

/// Whether a cgroup of this name is a pod's or a container's, or the one that holds them: no process of the node
/// itself is in it or below.
pub fn is_of_containers(name: &str) -> bool {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let holds_pods =
        stem == "kubepods" || stem.starts_with("kubepods-") || stem.ends_with("-kubepods");
    holds_pods
        || stem.contains("-kubepods-")
        || pod_uid(name).is_some()
        || HOLDERS.contains(&name)
        || RUNTIMES.iter().any(|runtime| name.starts_with(runtime))
}

/// Whether this is 32 hexadecimal digits, as the kubelet makes them of a static pod's manifest.
pub fn is_hash(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(is_hex)
}

/// How the cgroups of containers begin: CRI-O, podman, Docker, containerd.
const RUNTIMES: [&str; 5] = ["crio-", "libpod-", "docker-", "cri-containerd-", "nerdctl-"];
/// Cgroups that runtimes outside of Kubernetes put containers into.
const HOLDERS: [&str; 4] = ["docker", "libpod_parent", "machine.slice", "lxc"];

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => is_hex(byte),
        })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f0e8a3c-1b2d-4c5e-8f90-a1b2c3d4e5f6";
    const HASH: &str = "1f3870be274f6c49b3e31a0c6728957f";

    #[test]
    fn a_pods_cgroup_is_known_under_every_driver() {
        let slice = UID.replace('-', "_");
        for (name, expected) in [
            (format!("pod{UID}"), Some(UID)),
            (format!("kubepods-pod{slice}.slice"), Some(UID)),
            (format!("kubepods-burstable-pod{slice}.slice"), Some(UID)),
            (format!("kubelet-kubepods-besteffort-pod{slice}.slice"), Some(UID)),
            (format!("kubepods-burstable-pod{HASH}.slice"), Some(HASH)),
            (format!("pod{HASH}"), Some(HASH)),
            (UID.to_owned(), None),
            (format!("pod{UID}0"), None),
            (format!("cri-containerd-{UID}.scope"), None),
            ("kubepods-burstable.slice".to_owned(), None),
            ("podruntime".to_owned(), None),
            ("pod".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(pod_uid(&name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn cgroups_of_the_node_itself_are_told_from_those_of_containers() {
        let slice = UID.replace('-', "_");
        for name in [
            "kubepods",
            "kubepods.slice",
            "kubelet-kubepods.slice",
            "kubelet-kubepods-burstable.slice",
            "kubepods-besteffort.slice",
            &format!("kubelet-kubepods-pod{slice}.slice"),
            &format!("pod{UID}"),
            "crio-conmon-0a1b.scope",
            "cri-containerd-0a1b.scope",
            "libpod-0a1b.scope",
            "docker-0a1b.scope",
            "docker",
            "machine.slice",
        ] {
            assert!(is_of_containers(name), "{name}");
        }
        for name in [
            "system.slice",
            "kubelet.slice",
            "kubelet.service",
            "k3s.service",
            "docker.service",
            "crio.service",
            "containerd.service",
            "podruntime",
            "init.scope",
            "",
        ] {
            assert!(!is_of_containers(name), "{name}");
        }
    }
}
