//! `kit-net`, the first plugin of the chain: `kit-app` under another name. (The pod's link is made
//! by the kit; this tells of it, in the shape of the configuration's version.)

use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Its file and its `type`.
pub const KIND: &str = "kit-net";

/// The configuration of the kit's network, without any other plugin.
pub fn conflist(version: &str) -> String {
    let mut list = json!({
        "cniVersion": version,
        "name": "kit",
        "plugins": [{ "type": KIND, "capabilities": { "ips": true } }],
    });
    if version.is_empty() {
        list.as_object_mut().map(|list| list.remove("cniVersion"));
    }
    list.to_string()
}

/// Whether this process was started as the plugin.
pub fn is_called() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    Path::new(&name).file_name().is_some_and(|name| name == KIND)
}

/// Acts as the plugin: environment and standard input in, standard output out.
///
/// # Errors
/// The call is not as the specification wants it.
#[expect(clippy::print_stdout, reason = "it is what the runtime reads")]
pub fn run() -> Result<()> {
    let mut config = String::new();
    std::io::stdin().read_to_string(&mut config)?;
    let config: Value = serde_json::from_str(&config).context("read the configuration")?;
    let command = std::env::var("CNI_COMMAND").context("CNI_COMMAND")?;
    let answer = match command.as_str() {
        "VERSION" => json!({
            "cniVersion": "1.1.0",
            "supportedVersions":
                ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        }),
        "ADD" => result(&config, &std::env::var("CNI_NETNS").context("CNI_NETNS")?)?,
        "DEL" | "CHECK" | "STATUS" | "GC" => return Ok(()),
        other => bail!("CNI_COMMAND {other:?}"),
    };
    println!("{answer}");
    Ok(())
}

fn result(config: &Value, netns: &str) -> Result<Value> {
    let version = config["cniVersion"].as_str().unwrap_or_default();
    let told = config["runtimeConfig"]["ips"].as_array().context("no addresses")?;
    let ips = told.iter().map(|ip| Ok(ip.as_str().context("an address")?.parse()?));
    let ips: Vec<IpAddr> = ips.collect::<Result<_>>()?;
    let whole = |ip: &IpAddr| format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
    let mut result = json!({ "cniVersion": version, "dns": {} });
    for ip in &ips {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        match version {
            "" | "0.1.0" | "0.2.0" => {
                result[format!("ip{family}")] = json!({ "ip": whole(ip) });
                continue;
            }
            "0.3.0" | "0.3.1" | "0.4.0" => {
                push(&mut result, json!({ "version": family }), whole(ip))
            }
            _ => push(&mut result, json!({}), whole(ip)),
        }
        result["interfaces"] = json!([{ "name": "eth0", "sandbox": netns }]);
    }
    Ok(result)
}

fn push(result: &mut Value, mut entry: Value, address: String) {
    entry["interface"] = json!(0);
    entry["address"] = json!(address);
    match result["ips"].as_array_mut() {
        Some(ips) => ips.push(entry),
        None => result["ips"] = json!([entry]),
    }
}
