use std::net::IpAddr;

use super::super::StatusWriter;
use super::*;
use crate::mesh::policy::{Action, Group, PolicyScope};
use crate::mesh::{Authorization, MeshEvent, PolicyKey, ResourceKind, Store, Workload};
use crate::xds::delta::DeltaState;

fn key(name: &str) -> PolicyKey {
    PolicyKey { namespace: "shop".into(), name: name.into() }
}

fn events() -> Vec<MeshEvent> {
    let ip = IpAddr::from([10, 0, 0, 1]);
    let workload = Workload::pod("Kubernetes", "shop", "web", "web", ip).unwrap();
    let policy = Authorization {
        key: key("deny"),
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        groups: vec![Group::default()],
        dry_run: false,
    };
    vec![
        MeshEvent::Workload(workload.into()),
        MeshEvent::UnreadableAddress(
            "shop/broken".into(),
            [("net".into(), "10.0.1.0/24".parse().unwrap())].into(),
        ),
        MeshEvent::Policy(policy.into()),
        MeshEvent::UnreadablePolicy(key("broken"), PolicyScope::Global),
    ]
}

fn mesh() -> Mesh {
    let (mut store, reader) = Store::new();
    store.apply(events());
    Mesh::clone(&reader.load())
}

fn kept(dir: &Path, mesh: &str) -> Kept {
    Kept::new(&dir.join("state"), mesh.to_owned())
}

fn at(hours: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(hours * 3600)
}

#[test]
fn what_was_known_is_known_again_by_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = kept(dir.path(), "m");
    file.write(&mesh(), at(1)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&file.path), mode(file.path.parent().unwrap())), (0o600, 0o700));
    let (before, age) = file.read(at(3)).unwrap();
    assert_eq!(age, Duration::from_secs(7200));
    let mut found = Vec::new();
    for (kind, before) in
        [ResourceKind::Address, ResourceKind::Authorization].into_iter().zip(before)
    {
        found.extend(DeltaState::new(kind, "istio-system").remember(&before).unwrap());
    }
    assert_eq!(found, events());
}

#[test]
fn what_is_damaged_by_a_single_bit_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let file = kept(dir.path(), "m");
    file.write(&mesh(), at(1)).unwrap();
    let whole = std::fs::read(&file.path).unwrap();
    let check = |bytes: &[u8], what: &str| {
        std::fs::write(&file.path, bytes).unwrap();
        assert!(file.read(at(1)).is_err(), "{what}");
    };
    for byte in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1;
        check(&damaged, &format!("byte {byte}"));
    }
    for length in 0..whole.len() {
        check(&whole[..length], &format!("cut at {length}"));
    }
    std::fs::write(&file.path, &whole).unwrap();
    assert!(file.read(at(1)).is_ok());
}

#[test]
fn what_is_old_of_another_mesh_or_of_another_boot_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let file = kept(dir.path(), "m");
    assert!(matches!(file.read(at(1)), Err(KeptError::Read(..))), "never written");
    file.write(&mesh(), at(2)).unwrap();
    let foreign = |file: &Kept, hour| matches!(file.read(at(hour)), Err(KeptError::Foreign { .. }));
    assert!(foreign(&file, 27), "a day and an hour later");
    assert!(foreign(&file, 1), "before it was written");
    assert!(foreign(&kept(dir.path(), "other"), 2));
    assert!(foreign(&Kept { boot: "other".to_owned(), ..file.clone() }, 2));
    assert!(foreign(&Kept { boot: String::new(), ..file }, 2));
}

#[tokio::test(start_paused = true)]
async fn only_what_the_control_plane_says_is_written_and_the_last_of_it_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = kept(dir.path(), "m");
    let (mut store, reader) = Store::new();
    store.apply(events());
    let (_unsynced, status) = StatusWriter::new();
    let stop = CancellationToken::new();
    let keep = tokio::spawn(file.clone().keep(reader, status, stop.clone()));
    tokio::time::sleep(Duration::from_secs(100)).await;
    stop.cancel();
    keep.await.unwrap();
    assert!(!file.path.exists(), "it was only remembered");
}
