//! Another revision of this tree, built in a work tree of its own that is gone afterwards. The program
//! is kept by commit and profile, so that a second run need not build it again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::shell;

/// Builds `sotto` of a revision: what to call it, and the program.
pub(super) fn build(sh: &Shell, revision: &str, profile: &str) -> Result<(String, PathBuf)> {
    let commit = format!("{revision}^{{commit}}");
    let commit = cmd!(sh, "git rev-parse --verify --quiet --short=12 {commit}").quiet().read();
    let commit = commit.with_context(|| format!("{revision} is no revision of this tree"))?;
    let kept = shell::built("bench")?.join(format!("sotto-{commit}-{profile}"));
    let name = if commit.starts_with(revision) { commit.clone() } else { revision.to_owned() };
    if kept.is_file() {
        return Ok((name, kept));
    }
    let tree = WorkTree::add(sh, &commit)?;
    let target = shell::built(profile)?;
    let target = target.parent().context("cargo's target directory")?;
    {
        // The same target directory and packages as ours: dependencies that do not differ are not
        // built again. What comes of it has the name of ours, so it is put aside at once.
        let _there = sh.push_dir(&tree.path);
        let packages = ["--package", "sotto", "--package", "sotto-tests", "--bins"];
        cmd!(sh, "cargo build --profile {profile} {packages...} --target-dir {target}")
            .run()
            .with_context(|| format!("failed to build {revision}"))?;
    }
    std::fs::copy(shell::built(profile)?.join("sotto"), &kept)
        .with_context(|| format!("failed to keep {}", kept.display()))?;
    tree.remove()?;
    Ok((name, kept))
}

/// A work tree of git's; removed when dropped, or when the next one is added after a kill.
struct WorkTree<'a> {
    sh: &'a Shell,
    path: PathBuf,
}

impl<'a> WorkTree<'a> {
    fn add(sh: &'a Shell, commit: &str) -> Result<Self> {
        let path = shell::built("bench")?.join(commit);
        std::fs::create_dir_all(parent(&path)?).context("failed to make the bench's folder")?;
        let tree = WorkTree { sh, path };
        if tree.path.exists() {
            tree.remove().context("failed to remove a work tree that was left")?;
        }
        let path = &tree.path;
        cmd!(sh, "git worktree add --quiet --detach {path} {commit}").run()?;
        Ok(tree)
    }

    fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.path)?;
        cmd!(self.sh, "git worktree prune").quiet().run()?;
        Ok(())
    }
}

impl Drop for WorkTree<'_> {
    fn drop(&mut self) {
        if self.path.exists()
            && let Err(error) = self.remove()
        {
            eprintln!("xtask: the work tree {} is left: {error:#}", self.path.display());
        }
    }
}

fn parent(path: &Path) -> Result<&Path> {
    path.parent().context("a folder of its own")
}
