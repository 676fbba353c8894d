//! What a large mesh costs an agent: to learn it, to hold it, and to follow its changes.
//!
//! `cargo bench --bench mesh` prints, for meshes of several sizes, the time of each step and the memory afterwards,
//! each in a process of its own, and then, counted by valgrind's callgrind, so that it says the same on a busy machine,
//! the instructions for a workload and for a change. `sizes=1000,300000` chooses; `only=time` leaves the counting out.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

mod world;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use sotto::mesh::{DestinationsDelta, MeshReader, ResourceKind, Store};
use sotto::sys::heap;
use sotto::xds::delta::DeltaState;
use sotto_proto::ADDRESS_TYPE;
use sotto_proto::ads::DeltaDiscoveryResponse;

const SIZES: &str = "1000,10000,100000";
/// Changes that are timed.
const CHANGES: usize = 2000;
/// Counted are meshes of these sizes: what differs is their cost alone.
const COUNTED: [usize; 2] = [1000, 5000];
/// Instructions that a workload may cost until it is known, and one change of a mesh of [`COUNTED`] workloads.
const MOST_TO_LEARN: u64 = 20_000;
const MOST_TO_CHANGE: u64 = 60_000;

fn main() -> ExitCode {
    // cargo passes `--bench`.
    let words: Vec<String> = std::env::args().collect();
    let value = |name: &str| words.iter().find_map(|word| word.strip_prefix(name));
    let result = match (value("learn="), value("change=")) {
        (Some(size), _) => {
            size.parse().context("size").and_then(|size| learn(size, &told_in(size)))
        }
        (_, Some(size)) => size.parse().context("size").and_then(change),
        _ => table(value("sizes=").unwrap_or(SIZES), value("only=") != Some("time")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What an agent's task for the control plane has.
struct Agent {
    state: DeltaState,
    store: Store,
    reader: MeshReader,
}

impl Agent {
    fn new() -> Self {
        let (store, reader) = Store::new();
        let state = DeltaState::new(ResourceKind::Address, "istio-system");
        Self { state, store, reader }
    }

    /// Takes the bytes of a response, as the client does.
    fn take(&mut self, bytes: Vec<u8>) -> Result<[f64; 3]> {
        let at = Instant::now();
        let response = decode(bytes)?;
        let decoded = at.elapsed();
        let handled = self.state.on_response(&response);
        drop(response);
        ensure!(handled.rejected.is_empty(), "{:?}", handled.rejected);
        let handled_at = at.elapsed();
        self.store.apply(handled.events);
        self.store.set_synced(ResourceKind::Address);
        let applied = at.elapsed();
        Ok([decoded, handled_at - decoded, applied - handled_at].map(|part| part.as_secs_f64()))
    }
}

#[inline(never)]
fn decode(bytes: Vec<u8>) -> Result<DeltaDiscoveryResponse> {
    Ok(DeltaDiscoveryResponse::decode(Bytes::from(bytes))?)
}

/// What is counted: one change, from its bytes until what the kernel is told of it.
#[inline(never)]
fn counted_change(agent: &mut Agent, bytes: Vec<u8>) -> Result<()> {
    let before = agent.reader.load();
    agent.take(bytes)?;
    black_box(DestinationsDelta::between(&before, &agent.reader.load()));
    Ok(())
}

/// What is counted: the first response, from its bytes until everybody can read what it says.
#[inline(never)]
fn counted_learning(agent: &mut Agent, bytes: Vec<u8>) -> Result<[f64; 3]> {
    agent.take(bytes)
}

/// Where the bytes of the first response of a mesh of this size are: nothing of their making is in the memory of who
/// learns from them.
fn told_in(workloads: usize) -> PathBuf {
    std::env::temp_dir().join(format!("sotto-bench-mesh-{workloads}"))
}

/// Learns a mesh of a size, and prints what that took; what it holds, and what changes cost.
fn learn(workloads: usize, file: &Path) -> Result<()> {
    heap::bound(2)?;
    let bytes = std::fs::read(file)?;
    let size = bytes.len();
    let before = kilobytes("VmRSS:")?;
    let mut agent = Agent::new();
    let [decode, handle, apply] = counted_learning(&mut agent, bytes)?;
    heap::give_back();
    let after = kilobytes("VmRSS:")?;
    let most = kilobytes("VmHWM:")?;
    let mut times = Vec::new();
    for number in 0..CHANGES {
        let bytes = one(number * 37 % workloads.max(1), 2)?;
        let at = Instant::now();
        counted_change(&mut agent, bytes)?;
        times.push(at.elapsed());
    }
    times.sort();
    let micros = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6);
    let sum = decode + handle + apply;
    let held = (after + size / 1024).saturating_sub(before);
    println!(
        "{workloads:>9} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9} {:>9.1} {:>9.1} {:>9.1}",
        decode * 1e3,
        handle * 1e3,
        apply * 1e3,
        sum * 1e3,
        mib(held),
        held * 1024 / workloads.max(1),
        mib(most),
        micros(CHANGES / 2),
        micros(CHANGES * 99 / 100),
    );
    Ok(())
}

/// Learns a mesh, and follows one change after the other: for the counting.
fn change(workloads: usize) -> Result<()> {
    let mut agent = Agent::new();
    counted_learning(&mut agent, told(workloads)?)?;
    for number in 0..100 {
        counted_change(&mut agent, one(number * 37 % workloads, 2)?)?;
    }
    Ok(())
}

fn told(workloads: usize) -> Result<Vec<u8>> {
    Ok(world::all(workloads).encode_to_vec())
}

fn one(number: usize, version: usize) -> Result<Vec<u8>> {
    Ok(world::told(ADDRESS_TYPE, "2", vec![world::workload(number, version)]).encode_to_vec())
}

fn table(sizes: &str, counted: bool) -> Result<()> {
    println!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "workloads",
        "decode ms",
        "handle ms",
        "apply ms",
        "sum ms",
        "held MiB",
        "B each",
        "most MiB",
        "change us",
        "p99 us"
    );
    let own = std::env::current_exe()?;
    for size in sizes.split(',') {
        let workloads = size.parse().context("sizes")?;
        let file = told_in(workloads);
        std::fs::write(&file, told(workloads)?)?;
        let ended = Command::new(&own).arg(format!("learn={size}")).status()?;
        std::fs::remove_file(&file)?;
        ensure!(ended.success(), "{size} workloads: {ended}");
    }
    if !counted {
        return Ok(());
    }
    let [small, large] = COUNTED;
    let of = |size, function| instructions(size, function);
    let each = |few: u64, many: u64, by: usize| (many - few) / by as u64;
    let learned =
        each(of(small, "counted_learning")?, of(large, "counted_learning")?, large - small);
    println!("instructions to learn a workload: {learned}");
    let changed = [of(small, "counted_change")? / 100, of(large, "counted_change")? / 100];
    println!("instructions for a change, of {small}: {}; of {large}: {}", changed[0], changed[1]);
    ensure!(learned <= MOST_TO_LEARN, "more than {MOST_TO_LEARN} to learn a workload");
    ensure!(changed[1] <= MOST_TO_CHANGE, "more than {MOST_TO_CHANGE} for a change");
    Ok(())
}

/// Of one of the counted functions, and all that it calls, in a mesh of a size.
fn instructions(size: usize, function: &str) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(std::env::current_exe()?)
        .arg(format!("change={size}"))
        .output()
        .context("valgrind is needed (Debian's package of that name)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{size} workloads: {said}");
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).context("no count")?;
    Ok(collected.1.trim().parse()?)
}

/// A figure of proc_pid_status(5), in KiB.
fn kilobytes(name: &str) -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such figure")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn mib(kilobytes: usize) -> f64 {
    kilobytes as f64 / 1024.0
}
