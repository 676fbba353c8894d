//! The redirection that Istio's node agent makes in a pod: what the app sends goes to port 15001,
//! what comes in the clear to 15006, name queries to 15053, and the proxy's own packets, marked 0x539,
//! go free. Connections that the proxy opens with a client's address find their way back by the mark
//! 0x111 of their connection.

use anyhow::{Context, Result};

use crate::command;
use crate::node::RunningPod;

const RULESET: &str = r#"
table inet peer {
  chain raw_in {
    type filter hook prerouting priority raw;
    udp sport 53 meta mark & 0xfff != 0x539 ct zone set 1
  }
  chain raw_out {
    type filter hook output priority raw;
    udp dport 53 meta mark & 0xfff == 0x539 ct zone set 1
  }
  chain mangle_in {
    type filter hook prerouting priority mangle;
    meta mark & 0xfff == 0x539 ct mark set 0x111
  }
  chain mangle_out {
    type route hook output priority mangle;
    ct mark & 0xfff == 0x111 meta mark set ct mark
  }
  chain nat_in {
    type nat hook prerouting priority dstnat;
    ip saddr 169.254.7.127 meta l4proto tcp accept
    ip daddr != 127.0.0.1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
    ip6 daddr != ::1 tcp dport != 15008 meta mark & 0xfff != 0x539 redirect to :15006
  }
  chain nat_out {
    type nat hook output priority -100;
    ip daddr 169.254.7.127 meta l4proto tcp accept
    oifname != "lo" udp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
    ip daddr != 127.0.0.1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
    ip6 daddr != ::1 tcp dport 53 meta mark & 0xfff != 0x539 redirect to :15053
    meta l4proto tcp meta mark & 0xfff == 0x111 accept
    oifname "lo" ip daddr != 127.0.0.1 accept
    oifname "lo" ip6 daddr != ::1 accept
    ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
    ip6 daddr != ::1 meta l4proto tcp meta mark & 0xfff != 0x539 redirect to :15001
  }
}
"#;

/// Writes the rules and the routes of the marked packets.
///
/// # Errors
/// The kernel or the tools refuse one.
pub fn write(pod: &RunningPod) -> Result<()> {
    let enter = format!("--net={}", pod.netns.display());
    command::feed("nsenter", [&enter, "--", "nft", "-f", "-"], RULESET)
        .context("load the peer's redirection")?;
    for (family, all) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let lines = format!(
            "rule add fwmark 0x111/0xfff pref 32764 lookup 100\nroute add local {all} dev lo table 100"
        );
        command::feed("nsenter", [enter.as_str(), "--", "ip", family, "-batch", "-"], &lines)
            .context("route the peer's marked packets")?;
    }
    Ok(())
}
