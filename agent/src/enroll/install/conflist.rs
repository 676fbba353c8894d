//! The node's network configuration with our plugin in it, or without: text in, text out.
//!
//! A list runs its plugins in order and hands each the result of the one before. Ours is last: it
//! needs the pod's addresses, and adds none.

use serde_json::{Value, json};

/// The plugin's name: its file in the plugins' directory, and its `type` in a list.
pub const PLUGIN: &str = "sotto";

/// Why a text is no configuration. A container runtime skips such a file, and so do we.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Not JSON.
    #[error("is not JSON")]
    Json(#[from] serde_json::Error),
    /// Neither a list of plugins nor a plugin.
    #[error("has neither `plugins` nor `type`")]
    Shape,
}

/// The configuration with our plugin as the last of its list, once; none if it is that already.
///
/// A configuration of a single plugin becomes a list.
///
/// # Errors
/// The text is no network configuration.
pub fn with_plugin(text: &str, socket: &str) -> Result<Option<String>, ConflistError> {
    let mut list = parse(text)?;
    let entry = json!({ "type": PLUGIN, "agentSocket": socket });
    let plugins = plugins(&mut list)?;
    let ours = plugins.iter().filter(|plugin| is_ours(plugin)).count();
    if ours == 1 && plugins.last() == Some(&entry) {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(entry);
    Ok(Some(render(&list)))
}

/// The configuration without our plugin; none if it has none.
///
/// # Errors
/// The text is no network configuration.
pub fn without_plugin(text: &str) -> Result<Option<String>, ConflistError> {
    let mut list = parse(text)?;
    let plugins = plugins(&mut list)?;
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    let changed = plugins.len() < before;
    Ok(changed.then(|| render(&list)))
}

fn parse(text: &str) -> Result<Value, ConflistError> {
    let value: Value = serde_json::from_str(text)?;
    if value.get("plugins").is_some() {
        return Ok(value);
    }
    if value.get("type").is_none() {
        return Err(ConflistError::Shape);
    }
    // Name and version belong to the list; a plugin gets them from there.
    let mut plugin = value;
    let fields = plugin.as_object_mut().ok_or(ConflistError::Shape)?;
    let mut list = json!({});
    for key in ["cniVersion", "name"] {
        if let Some(value) = fields.remove(key) {
            list[key] = value;
        }
    }
    list["plugins"] = json!([plugin]);
    Ok(list)
}

fn plugins(list: &mut Value) -> Result<&mut Vec<Value>, ConflistError> {
    list.get_mut("plugins").and_then(Value::as_array_mut).ok_or(ConflistError::Shape)
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

fn render(list: &Value) -> String {
    format!("{list:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: &str = "/run/sotto/cni.sock";

    fn check_added(text: &str, expected: &Value) {
        let added = with_plugin(text, SOCKET).unwrap().expect("a change");
        assert_eq!(serde_json::from_str::<Value>(&added).unwrap(), *expected);
        assert_eq!(with_plugin(&added, SOCKET).unwrap(), None, "a second time changes nothing");
        let removed = without_plugin(&added).unwrap().expect("a change");
        assert!(!removed.contains(PLUGIN));
        assert_eq!(without_plugin(&removed).unwrap(), None);
    }

    #[test]
    fn a_list_gets_one_more() {
        let text = r#"{"cniVersion":"0.3.1","name":"kindnet","plugins":[{"type":"ptp","mtu":1500},{"type":"portmap"}]}"#;
        let expected = json!({
            "cniVersion": "0.3.1", "name": "kindnet",
            "plugins": [{"type": "ptp", "mtu": 1500}, {"type": "portmap"}, {"type": "sotto", "agentSocket": SOCKET}],
        });
        check_added(text, &expected);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let text = r#"{"cniVersion":"0.4.0","name":"mynet","type":"bridge","bridge":"cni0"}"#;
        let expected = json!({
            "cniVersion": "0.4.0", "name": "mynet",
            "plugins": [{"type": "bridge", "bridge": "cni0"}, {"type": "sotto", "agentSocket": SOCKET}],
        });
        check_added(text, &expected);
    }

    #[test]
    fn an_old_or_misplaced_entry_is_replaced() {
        let text =
            r#"{"name":"a","plugins":[{"type":"sotto","agentSocket":"/old"},{"type":"ptp"}]}"#;
        let expected = json!({
            "name": "a",
            "plugins": [{"type": "ptp"}, {"type": "sotto", "agentSocket": SOCKET}],
        });
        check_added(text, &expected);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["", "{", "[]", "7", "{}", r#"{"plugins":{}}"#, r#"{"plugins":null}"#] {
            assert!(with_plugin(text, SOCKET).is_err(), "{text}");
            assert!(without_plugin(text).is_err(), "{text}");
        }
    }
}
