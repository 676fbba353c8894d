//! The kubelet's cgroup, by which its probes are known: found through its process.
//!
//! Its path says little: systemd, kind, k3s and others each have their own. And seen from a container,
//! `/proc/<pid>/cgroup` is relative to the container, so the hierarchy is asked who is in it.

use std::io;
use std::path::{Path, PathBuf};

/// The programs that a kubelet runs in: its own, k3s and MicroK8s.
const PROGRAMS: [&str; 5] = ["kubelet", "k3s", "k3s-server", "k3s-agent", "kubelite"];

/// Cgroups looked through at most: some hundreds are usual on a full node.
const MAX_CGROUPS: usize = 100_000;

/// The directory of the kubelet's cgroup; none if no kubelet runs on this node, or below another root.
///
/// # Errors
/// `proc` or `cgroup_root` cannot be listed.
pub fn find(proc: &Path, cgroup_root: &Path) -> io::Result<Option<PathBuf>> {
    let kubelets = processes(proc)?;
    if kubelets.is_empty() {
        return Ok(None);
    }
    let mut open = vec![cgroup_root.to_owned()];
    for _ in 0..MAX_CGROUPS {
        let Some(dir) = open.pop() else { return Ok(None) };
        if has_any(&dir, &kubelets) {
            return Ok(Some(dir));
        }
        match children(&dir) {
            Ok(children) => open.extend(children),
            // It may go while we look.
            Err(_) if dir != cgroup_root => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The process ids of this node's kubelets.
fn processes(proc: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        let entry = entry?;
        let Ok(id) = entry.file_name().into_string() else { continue };
        if !id.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // A process may end while we look.
        let Ok(program) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
        if PROGRAMS.contains(&program.trim_end()) {
            found.push(id);
        }
    }
    Ok(found)
}

fn has_any(cgroup: &Path, processes: &[String]) -> bool {
    let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    members.lines().any(|member| processes.iter().any(|process| process == member))
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of these processes (id, program), in these cgroups (path, members).
    fn check(processes: &[(u32, &str)], cgroups: &[(&str, &str)], expected: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        let (proc, root) = (dir.path().join("proc"), dir.path().join("cgroup"));
        std::fs::create_dir_all(proc.join("sys")).unwrap();
        for (id, program) in processes {
            std::fs::create_dir_all(proc.join(id.to_string())).unwrap();
            std::fs::write(proc.join(id.to_string()).join("comm"), format!("{program}\n")).unwrap();
        }
        std::fs::create_dir_all(&root).unwrap();
        for (path, members) in cgroups {
            std::fs::create_dir_all(root.join(path)).unwrap();
            std::fs::write(root.join(path).join("cgroup.procs"), members).unwrap();
        }
        let expected = expected.map(|path| root.join(path));
        assert_eq!(find(&proc, &root).unwrap(), expected);
    }

    #[test]
    fn a_systemd_service_is_found() {
        let processes = [(1, "systemd"), (70, "kubelet"), (700, "app")];
        let cgroups = [
            ("init.scope", "1\n"),
            ("system.slice/kubelet.service", "69\n70\n"),
            ("kubepods.slice/a", "700\n"),
        ];
        check(&processes, &cgroups, Some("system.slice/kubelet.service"));
    }

    #[test]
    fn a_program_that_holds_a_kubelet_is_found() {
        check(
            &[(5, "k3s-server")],
            &[("system.slice/k3s.service", "5\n")],
            Some("system.slice/k3s.service"),
        );
    }

    #[test]
    fn another_number_or_name_is_not_it() {
        check(&[(70, "kubelet-helper")], &[("a", "70\n")], None);
        check(&[(7, "kubelet")], &[("a", "70\n77\n")], None);
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("7")).unwrap();
        std::fs::write(dir.path().join("7/comm"), "kubelet\n").unwrap();
        assert!(find(dir.path(), &dir.path().join("none")).is_err());
    }
}
