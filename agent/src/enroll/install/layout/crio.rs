//! CRI-O's configuration: flags, a file, and a directory of more (crio.conf(5), crio.conf.d(5)).

use std::path::Path;

use toml::{Table, Value};

use super::{BIN_DIR, CONF_DIR, Layout, LayoutError, Started, files_in, first_dir, read};
use crate::sys::Host;

pub(super) const FILE: &str = "/etc/crio/crio.conf";
pub(super) const DIR: &str = "/etc/crio/crio.conf.d";

pub(super) fn layout(host: &Host, started: &Started) -> Result<Layout, LayoutError> {
    let file = started.flag(&["-c", "--config"]).unwrap_or(FILE);
    let dir = started.flag(&["-d", "--config-dir"]).unwrap_or(DIR);
    let mut paths = vec![Path::new(file).to_owned()];
    // Later ones have the last word.
    paths.extend(files_in(host, Path::new(dir), None));
    let (mut conf_dir, mut bin_dirs) = (None, Vec::new());
    for path in paths {
        let Some(table) = read(host, &path)? else { continue };
        let network = network(&table);
        let text = |key: &str| network?.get(key)?.as_str().map(str::to_owned);
        conf_dir = text("network_dir").or(conf_dir);
        let list = network.and_then(|network| network.get("plugin_dirs")?.as_array());
        let list: Vec<String> =
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        if !list.is_empty() {
            bin_dirs = list;
        }
    }
    if let Some(flag) = started.flag(&["--cni-plugin-dir"]) {
        bin_dirs = flag.split(',').map(str::to_owned).collect();
    }
    let conf_dir = started.flag(&["--cni-config-dir"]).map(str::to_owned).or(conf_dir);
    Ok(Layout {
        bin_dir: first_dir(host, &bin_dirs).unwrap_or_else(|| BIN_DIR.into()),
        conf_dir: conf_dir.unwrap_or_else(|| CONF_DIR.to_owned()).into(),
        source: format!("CRI-O's {file} and {dir}"),
    })
}

fn network(table: &Table) -> Option<&Table> {
    table.get("crio")?.get("network")?.as_table()
}
