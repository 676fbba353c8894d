//! The programs and maps by themselves: the verifier takes them, links and pins are where they should be.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use kit::lab::Lab;
use sotto::capture::PodListeners;
use sotto_abi::{POD_STAND_INS, Pod, names};

const LINKS: [&str; 5] =
    [names::CONNECT4, names::CONNECT6, names::GETPEERNAME4, names::GETPEERNAME6, names::PROBE];

#[test]
fn the_verifier_accepts_every_program_and_all_is_pinned() -> Result<()> {
    let lab = Lab::new("load")?;
    let mut kernel = lab.install(|_| {})?;
    for map in names::SHARED_MAPS {
        assert!(lab.pin_dir().join(names::MAPS_DIRECTORY).join(map).exists(), "{map}");
    }
    for link in LINKS {
        assert!(lab.pin_dir().join(names::LINKS_DIRECTORY).join(link).exists(), "{link}");
    }
    let pod = lab.pod(2)?;
    let listeners = PodListeners::bind(&pod.capture)?;
    kernel.capture(&pod.capture, &listeners)?;
    let adopted = kernel.adopted()?;
    assert_eq!(adopted.len(), 1);
    assert_eq!(adopted[0].netns_inode, pod.capture.netns.inode());
    assert_eq!(adopted[0].cookie, pod.capture.netns.cookie()?);
    Ok(())
}

#[test]
fn a_cgroup_that_holds_pods_is_not_exempt_as_the_kubelets() -> Result<()> {
    let lab = Lab::new("shared")?;
    let probe = lab.pin_dir().join(names::LINKS_DIRECTORY).join(names::PROBE);
    let mut kernel = lab.install(|_| {})?;
    assert!(probe.exists());
    // Above all pods, and above the agent.
    assert!(!kernel.exempt_probes(Some(&lab.config()?.cgroup_root))?);
    assert!(!probe.exists());
    lab.know_kubelet(&mut kernel)?;
    let below = lab.kubelet_cgroup().join("kubepods");
    std::fs::create_dir(&below)?;
    let exempt = kernel.exempt_probes(Some(&lab.kubelet_cgroup()));
    std::fs::remove_dir(&below)?;
    assert!(!exempt?);
    assert!(!probe.exists());
    Ok(())
}

#[test]
fn a_kubelet_that_is_gone_or_not_known_leaves_nobody_exempt() -> Result<()> {
    let lab = Lab::new("nobody")?;
    let probe = lab.pin_dir().join(names::LINKS_DIRECTORY).join(names::PROBE);
    let mut kernel = lab.install(|_| {})?;
    assert!(!kernel.exempt_probes(None)?);
    assert!(!probe.exists());
    lab.know_kubelet(&mut kernel)?;
    assert!(probe.exists());
    assert!(kernel.exempt_probes(Some("/nonexistent".as_ref())).is_err());
    assert!(!probe.exists());
    // The next agent knows none either, though the one before did.
    lab.know_kubelet(&mut kernel)?;
    drop(kernel);
    let mut kernel = sotto::capture::bpf::Kernel::install(lab.config()?)?;
    assert!(probe.exists());
    assert!(!kernel.exempt_probes(None)?);
    assert!(!probe.exists());
    Ok(())
}

#[test]
fn a_node_that_can_capture_is_found_usable() {
    use sotto::capture::check::{Finding, Verdict, check};

    let known = tempfile::tempdir().expect("a directory");
    for (kubelet, expected) in
        [(Some(known.path().to_owned()), Verdict::Good), (None, Verdict::Limited)]
    {
        // An empty `/proc` shows no kubelet.
        let report = check(None, known.path(), kubelet);
        assert!(report.is_usable(), "{report}");
        let is = |one: &Finding| match one.subject {
            "kubelet" => one.verdict == expected,
            _ => one.verdict == Verdict::Good,
        };
        assert!(report.0.iter().all(is), "{report}");
    }
}

#[test]
fn the_programs_can_be_loaded_and_unloaded_by_hand() -> Result<()> {
    let lab = Lab::new("hand")?;
    let pins = lab.pin_dir().join("v1");
    let loaded = sotto::capture::bpf::load(&pins, Some(&lab.config()?.cgroup_root))?;
    let told = loaded.to_string();
    for program in LINKS.into_iter().chain([names::STEER]) {
        assert!(told.lines().any(|line| line.starts_with(program)), "{told}");
    }
    eprintln!("{told}");
    sotto::capture::bpf::unload(&pins, &sotto::sys::Netns::current()?)
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    assert!(!lab.pin_dir().exists(), "the folder above is gone too");
    Ok(())
}

#[test]
fn loading_takes_less_memory_than_the_kernels_types_would() -> Result<()> {
    let lab = Lab::new("peak")?;
    let pod = lab.pod(2)?;
    let listeners = PodListeners::bind(&pod.capture)?;
    let types = std::fs::metadata("/sys/kernel/btf/vmlinux")?.len() / 1024;
    let before = peak_kilobytes()?;
    lab.install(|_| {})?.capture(&pod.capture, &listeners)?;
    let taken = peak_kilobytes()? - before;
    assert!(taken < types, "{taken} kB more than before; the kernel's types are {types} kB");
    Ok(())
}

/// The most memory that this process had, `VmHWM`.
fn peak_kilobytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.context("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn what_user_space_writes_is_what_the_programs_read() -> Result<()> {
    let lab = Lab::new("abi")?;
    let mut kernel = lab.install(|_| {})?;
    let pod = lab.pod(2)?;
    let listeners = PodListeners::bind(&pod.capture)?;
    kernel.capture(&pod.capture, &listeners)?;
    let map = MapData::from_pin(lab.pin_dir().join(names::MAPS_DIRECTORY).join(names::ENROLLED))?;
    let enrolled: HashMap<_, u64, Pod> = Map::HashMap(map).try_into()?;
    let record = enrolled.get(&pod.capture.netns.cookie()?, 0)?;
    assert_eq!(IpAddr::from(record.ip4), pod.ip4());
    assert_eq!(IpAddr::from(record.ip6), pod.ip6());
    assert_eq!(record.flags, POD_STAND_INS);
    Ok(())
}
