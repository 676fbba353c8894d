//! What only some files may reach: crates, system calls, clocks and IO, test-only configuration.

use super::Finding;
use super::levels::{CRATES, IMPURE, NOT_PURE, PURE};
use super::source::{Line, Source, has_word};

pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say =
        |line: usize, message: String| found.push(Finding::error(&source.path, line, message));
    for (number, line) in source.numbered() {
        if let Some(message) = namespaces(&source.path, line) {
            say(number, message);
        }
        if line.test {
            continue;
        }
        crates(&source.path, line).into_iter().for_each(|message| say(number, message));
        purity(&source.path, line).into_iter().for_each(|message| say(number, message));
        if let Some(message) = test_only(&source.path, line) {
            say(number, message);
        }
    }
    found.extend(odd_test_items(source));
    found
}

fn crates(path: &str, line: &Line) -> Vec<String> {
    if !path.starts_with("agent/src/") {
        return Vec::new();
    }
    let seen =
        CRATES.iter().filter(|(name, may)| names_crate(&line.code, name) && !starts_any(path, may));
    seen.map(|(name, may)| format!("`{name}` belongs in {}", may.join(", "))).collect()
}

/// Whether a path into the crate starts in `code`: a module of the same name is another thing.
fn names_crate(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].trim_end();
        let starts = !code[..at].ends_with(super::source::is_name) && !before.ends_with("::");
        let after = &code[at + name.len()..];
        let imported =
            before.ends_with("use") && (after.starts_with(';') || after.starts_with(" as "));
        starts && (after.starts_with("::") || imported)
    })
}

fn starts_any(path: &str, starts: &[&str]) -> bool {
    starts.iter().any(|start| path.starts_with(start))
}

/// A namespace is entered in one function, which restores it.
fn namespaces(path: &str, line: &Line) -> Option<String> {
    // The kit builds the nodes' namespaces itself, apart from the code that it tests.
    let one_place = path.starts_with("agent/src/sys/netns") || path.starts_with("tests/kit/netns");
    (!one_place && has_word(&line.code, "setns"))
        .then(|| "`setns` belongs in agent/src/sys/netns.rs".to_owned())
}

fn purity(path: &str, line: &Line) -> Vec<String> {
    if !starts_any(path, &PURE) || starts_any(path, &NOT_PURE) {
        return Vec::new();
    }
    let named = IMPURE.iter().filter(|name| has_word(&line.code, name));
    named
        .map(|name| format!("a pure module does no IO and reads no clock, but names `{name}`"))
        .collect()
}

fn test_only(path: &str, line: &Line) -> Option<String> {
    let shipped = ["agent/", "proto/"].iter().any(|start| path.starts_with(start));
    let branch = line.code.contains("cfg!(test)")
        || line.code.contains("cfg(feature")
        || line.code.contains("cfg!(feature");
    (shipped && branch).then(|| "shipped code has no branch for tests or features".to_owned())
}

/// What may be built for tests alone. An impl gives tests a view of what is private, no other life.
const TEST_ITEMS: [&str; 5] = ["mod ", "pub mod ", "pub(crate) mod ", "use ", "impl "];

/// `#[cfg(test)]` in shipped code stands before one of [`TEST_ITEMS`], nothing else.
fn odd_test_items(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with("agent/src/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (number, line) in source.numbered() {
        let Some((_, same)) = line.code.split_once("#[cfg(test)]") else { continue };
        let later = source.lines[number..].iter().map(|line| line.code.trim());
        let item = std::iter::once(same.trim())
            .chain(later)
            .find(|code| !code.is_empty() && !code.starts_with("#["));
        if !item.is_some_and(|item| TEST_ITEMS.iter().any(|start| item.starts_with(start))) {
            found.push(Finding::error(
                &source.path,
                number,
                "only modules and impls are built for tests alone",
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tidy::source::Source;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source::scan(path, text)).iter().map(ToString::to_string).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn crates_stay_where_they_belong() {
        assert_eq!(found("agent/src/capture/bpf/load.rs", "use aya::Ebpf;"), NONE);
        assert_eq!(found("agent/src/capture/bpf.rs", "use aya::Ebpf;"), NONE);
        let expected = ["agent/src/capture/listeners.rs:1: `aya` belongs in agent/src/capture/bpf"];
        assert_eq!(found("agent/src/capture/listeners.rs", "use aya::Ebpf;"), expected);
        assert_eq!(found("agent/src/enroll/pods.rs", "use kube::Client;"), NONE);
        assert_eq!(found("agent/src/observe/ready.rs", "fn a(b: kube::Client) {}").len(), 1);
        assert_eq!(found("agent/src/xds/decode.rs", "use sotto_proto::workload;"), NONE);
        assert_eq!(found("agent/src/identify/tls.rs", "use sotto_proto::ca;").len(), 1);
    }

    #[test]
    fn a_module_or_a_longer_name_is_not_the_crate() {
        assert_eq!(
            found("agent/src/app.rs", "use self::kube::A; use kube_stub::B; let kube = 1;"),
            NONE
        );
    }

    #[test]
    fn namespaces_are_entered_in_one_place() {
        assert_eq!(found("agent/src/sys/netns.rs", "nix::sched::setns(fd, flags)?;"), NONE);
        let expected = ["tests/kit/pods.rs:1: `setns` belongs in agent/src/sys/netns.rs"];
        assert_eq!(found("tests/kit/pods.rs", "nix::sched::setns(fd, flags)?;"), expected);
    }

    #[test]
    fn pure_modules_read_no_clock() {
        assert_eq!(found("agent/src/mesh/store.rs", "use tokio::sync::watch;"), NONE);
        let expected = [
            "agent/src/route.rs:1: a pure module does no IO and reads no clock, but names `Instant::now`",
        ];
        assert_eq!(found("agent/src/route.rs", "let now = Instant::now();"), expected);
        assert_eq!(
            found("agent/src/route.rs", "#[cfg(test)]\nmod tests { fn a() { Instant::now(); } }"),
            NONE
        );
        assert_eq!(found("agent/src/tunnel/pool.rs", "let now = Instant::now();"), NONE);
    }

    #[test]
    fn shipped_code_has_no_test_branch() {
        assert_eq!(found("agent/src/app.rs", "if cfg!(test) {}").len(), 1);
        assert_eq!(found("agent/src/app.rs", "#[cfg(feature = \"fake\")]\nfn a() {}").len(), 1);
        assert_eq!(found("agent/src/app.rs", "#[cfg(test)]\nfn fake() {}").len(), 1);
        assert_eq!(found("agent/src/app.rs", "#[cfg(test)]\n#[path = \"x\"]\nmod tests;"), NONE);
    }
}
