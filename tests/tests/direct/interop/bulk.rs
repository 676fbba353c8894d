//! Many streams, and many bytes.

use super::*;
use crate::local;

/// 1 KiB each way on each, a hundred at a time.
fn ten_thousand() -> Plan {
    Plan { streams: 10_000, total: 1024, ..Plan::default() }
}

/// Half a gibibyte each way on one stream...
fn half_a_gibibyte_on_one() -> Plan {
    Plan { streams: 1, total: 512 << 20, ..Plan::default() }
}

/// ...and the other half on 64.
fn half_a_gibibyte_on_many() -> Plan {
    Plan { streams: 64, total: 8 << 20, ..Plan::default() }
}

#[tokio::test]
async fn ten_thousand_streams_of_the_crate_pass_our_server() {
    local(90, crate_dials(ten_thousand())).await;
}

#[tokio::test]
async fn ten_thousand_streams_of_ours_pass_the_crates_server() {
    local(90, crate_is_dialled(ten_thousand())).await;
}

#[tokio::test]
async fn half_a_gibibyte_each_way_passes_our_server_on_one_stream() {
    local(90, crate_dials(half_a_gibibyte_on_one())).await;
}

#[tokio::test]
async fn half_a_gibibyte_each_way_passes_our_server_on_64_streams() {
    local(90, crate_dials(half_a_gibibyte_on_many())).await;
}

#[tokio::test]
async fn half_a_gibibyte_each_way_passes_our_client_on_one_stream() {
    local(90, crate_is_dialled(half_a_gibibyte_on_one())).await;
}

#[tokio::test]
async fn half_a_gibibyte_each_way_passes_our_client_on_64_streams() {
    local(90, crate_is_dialled(half_a_gibibyte_on_many())).await;
}
