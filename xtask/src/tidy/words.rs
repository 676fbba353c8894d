//! What no file says: work left undone, places of one machine, and documents that are not here.

use std::collections::BTreeSet;

use super::Finding;

/// Marks of unfinished work, as whole words.
const UNDONE: [&str; 5] = ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"];

/// Folders of a machine that built this, not of one that runs it.
const MACHINE: [&str; 3] = ["/home/", "/root/", "/Users/"];
/// One of many machines: where GKE's nodes have their network's plugins.
const OF_NODES: &str = "/home/kubernetes/bin";

/// This file names what it looks for.
const SELF: &str = "xtask/src/tidy/words.rs";

pub(crate) fn check(path: &str, text: &str, tree: &BTreeSet<&str>) -> Vec<Finding> {
    if path == SELF {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let mut say = |message: String| found.push(Finding::error(path, index + 1, message));
        for word in UNDONE.iter().filter(|word| has_mark(line, word)) {
            say(format!("`{word}`: finish it, or leave it out"));
        }
        let of_machine = line.replace(OF_NODES, "");
        for folder in MACHINE.iter().filter(|folder| has_folder(&of_machine, folder)) {
            say(format!("`{folder}` is a folder of one machine"));
        }
        let prose = prose(path, line);
        if let Some(number) = numbered(prose) {
            say(format!("`#{number}`: say what it is about, not its number"));
        }
        for document in documents(prose).filter(|name| !is_here(name, tree)) {
            say(format!("`{document}` is not in this tree"));
        }
    }
    found
}

fn has_mark(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + mark.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}

/// A folder counts where an absolute path starts, not inside a longer one.
fn has_folder(line: &str, folder: &str) -> bool {
    let starts = |at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "._-}$*/".contains(letter))
    };
    line.match_indices(folder).any(|(at, _)| starts(at))
}

/// What a line says to a reader: all of it in Markdown, else its comment.
fn prose<'a>(path: &str, line: &'a str) -> &'a str {
    let marker = match path.rsplit('.').next() {
        Some("md") => return line,
        Some("rs" | "proto") => "//",
        Some("json") => return "",
        _ => "#",
    };
    line.split_once(marker).map_or("", |(_, comment)| comment)
}

/// The digits of a reference such as `#12` or `project#12`. `PKCS #8` is a name.
fn numbered(prose: &str) -> Option<&str> {
    prose.match_indices('#').find_map(|(at, _)| {
        let after = &prose[at + 1..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let goes_on =
            after[digits..].starts_with(|next: char| next.is_alphanumeric() || next == '-');
        let is_name = prose[..at].trim_end().ends_with("PKCS");
        (digits > 0 && !goes_on && !is_name).then_some(&after[..digits])
    })
}

/// Names of Markdown files, but for those of a web address.
fn documents(prose: &str) -> impl Iterator<Item = &str> {
    let is_part = |letter: char| letter.is_alphanumeric() || "._-/:".contains(letter);
    let words = prose.split(move |letter: char| !is_part(letter));
    words
        .map(|word| word.trim_matches(['.', ':']))
        .filter(|word| word.ends_with(".md") && !word.contains("://"))
}

fn is_here(document: &str, tree: &BTreeSet<&str>) -> bool {
    let name = document.trim_start_matches("./");
    tree.iter().any(|path| {
        *path == name || path.strip_suffix(name).is_some_and(|folder| folder.ends_with('/'))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::check;

    fn found(path: &str, text: &str) -> Vec<String> {
        let tree = BTreeSet::from(["README.md", "docs/ports.md"]);
        check(path, text, &tree).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn plain_words_pass() {
        let text = "// Sends `{:#06x}` to 10.0.0.1 ## 3 times, see README.md and docs/ports.md, PKCS #8, RFC 9113 (5.1).";
        assert_eq!(found("agent/src/app.rs", text), [""; 0]);
        assert_eq!(found("agent/src/app.rs", "format!(\"{:#06x} TODOs #7\")"), [""; 0]);
        assert_eq!(
            found("README.md", "[Ports](docs/ports.md#15008-and-more), https://example.org/x.md"),
            [""; 0]
        );
    }

    #[test]
    fn undone_work_fails() {
        assert_eq!(
            found("a.rs", "let a; // TODO: b"),
            ["a.rs:1: `TODO`: finish it, or leave it out"]
        );
        assert_eq!(
            found("a.yaml", "a: b # FIXME(c)"),
            ["a.yaml:1: `FIXME`: finish it, or leave it out"]
        );
        assert_eq!(found("a.rs", "\ntodo!()"), ["a.rs:2: `todo!`: finish it, or leave it out"]);
    }

    #[test]
    fn numbers_of_tickets_fail() {
        let expected = ["a.rs:1: `#12`: say what it is about, not its number"];
        assert_eq!(found("a.rs", "// as in istio#12"), expected);
        assert_eq!(found("a.rs", "// see #12."), expected);
    }

    #[test]
    fn places_of_one_machine_fail() {
        assert_eq!(
            found("a.rs", "let a = \"/home/me/x\";"),
            ["a.rs:1: `/home/` is a folder of one machine"]
        );
        assert_eq!(found("a.rs", "dir.join(\"node/home/x\")"), [""; 0]);
        assert_eq!(found("a.rs", "let bin = \"/home/kubernetes/bin\";"), [""; 0]);
    }

    #[test]
    fn documents_that_are_elsewhere_fail() {
        assert_eq!(
            found("a.rs", "// (design.md, section 2)"),
            ["a.rs:1: `design.md` is not in this tree"]
        );
    }
}
