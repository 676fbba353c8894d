//! The node's network configuration with our plugin in it, or without: text in, text out.
//!
//! A list runs its plugins in order and hands each the result of the one before. Ours is last: it
//! needs the pod's addresses, and adds none.

use serde_json::{Value, json};

/// The plugin's name: its file in the plugins' directory, and its `type` in a list.
pub const PLUGIN: &str = "sotto";
/// Key of our list, for people: the file that it was made of.
const SOURCE: &str = "sotto.io/source";

/// What our entry says; what else an operator put there stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Socket of the agent.
    pub socket: &'a str,
    /// Its namespace.
    pub agent_namespace: &'a str,
    /// The file of the list of enrolled namespaces.
    pub enrolled_list: &'a str,
    /// Namespaces that never wait; none given: as they are.
    pub exempt: Option<&'a [String]>,
}

/// Why a text is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// Not JSON.
    #[error("is not JSON")]
    Json(#[from] serde_json::Error),
    /// Neither a list of plugins nor a plugin.
    #[error("has neither `plugins` nor `type`")]
    Shape,
}

/// A network's configuration. That of a single plugin is a list of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Conflist(Value);

impl Conflist {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The text is none.
    pub fn parse(text: &str) -> Result<Self, ConflistError> {
        let value: Value = serde_json::from_str(text)?;
        if value["plugins"].as_array().is_some_and(|plugins| !plugins.is_empty()) {
            return Ok(Self(value));
        }
        if value.get("plugins").is_some() || value.get("type").is_none() {
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
        Ok(Self(list))
    }

    /// The types of its plugins.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.plugins().iter().filter_map(|plugin| plugin["type"].as_str())
    }

    /// The file that our list was made of.
    pub fn source(&self) -> Option<&str> {
        self.0[SOURCE].as_str()
    }

    /// Our own entry.
    pub fn ours(&self) -> Option<&Value> {
        self.plugins().iter().find(|plugin| is_ours(plugin))
    }

    /// The configuration without our plugin; none if it has none.
    pub fn without_plugin(&self) -> Option<Self> {
        self.ours()?;
        let mut list = self.0.clone();
        list["plugins"].as_array_mut()?.retain(|plugin| !is_ours(plugin));
        Some(Self(list))
    }

    /// Our own list: this one, of the file `source`, and our plugin as the last, once. What an operator
    /// has added to the entry `before` stays.
    pub fn with_plugin(&self, source: &str, entry: &Entry<'_>, before: Option<&Value>) -> Self {
        let mut list = self.without_plugin().unwrap_or_else(|| self.clone()).0;
        let mut ours = before.or_else(|| self.ours()).cloned().unwrap_or_else(|| json!({}));
        ours["type"] = json!(PLUGIN);
        ours["agentSocket"] = json!(entry.socket);
        ours["agentNamespace"] = json!(entry.agent_namespace);
        ours["enrolledList"] = json!(entry.enrolled_list);
        if let Some(exempt) = entry.exempt {
            ours["exemptNamespaces"] = json!(exempt);
        }
        list[SOURCE] = json!(source);
        if let Some(plugins) = list["plugins"].as_array_mut() {
            plugins.push(ours);
        }
        Self(list)
    }

    /// As a file has it.
    pub fn render(&self) -> String {
        format!("{:#}\n", self.0)
    }

    fn plugins(&self) -> &[Value] {
        self.0["plugins"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"].as_str() == Some(PLUGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry<'_> = Entry {
        socket: "/run/sotto/cni.sock",
        agent_namespace: "mesh",
        enrolled_list: "/var/lib/sotto/enrolled.json",
        exempt: None,
    };

    fn ours() -> Value {
        json!({
            "type": "sotto", "agentSocket": "/run/sotto/cni.sock", "agentNamespace": "mesh",
            "enrolledList": "/var/lib/sotto/enrolled.json",
        })
    }

    fn check_made(text: &str, expected: &Value) {
        let made = Conflist::parse(text).unwrap().with_plugin("10-a", &ENTRY, None);
        assert_eq!(made.0, *expected);
        assert_eq!(Conflist::parse(&made.render()).unwrap(), made);
        assert_eq!(made.with_plugin("10-a", &ENTRY, None), made, "a second time changes nothing");
        assert_eq!(made.without_plugin().unwrap().without_plugin(), None);
    }

    #[test]
    fn a_list_gets_one_more() {
        let text = r#"{"cniVersion":"0.3.1","name":"kindnet","plugins":[{"type":"ptp","mtu":1500},{"type":"portmap"}]}"#;
        let expected = json!({
            "cniVersion": "0.3.1", "name": "kindnet", "sotto.io/source": "10-a",
            "plugins": [{"type": "ptp", "mtu": 1500}, {"type": "portmap"}, ours()],
        });
        check_made(text, &expected);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let text = r#"{"cniVersion":"0.4.0","name":"mynet","type":"bridge","bridge":"cni0"}"#;
        let expected = json!({
            "cniVersion": "0.4.0", "name": "mynet", "sotto.io/source": "10-a",
            "plugins": [{"type": "bridge", "bridge": "cni0"}, ours()],
        });
        check_made(text, &expected);
    }

    #[test]
    fn what_an_operator_has_set_stays_unless_a_flag_says_otherwise() {
        let primary = Conflist::parse(r#"{"name":"a","plugins":[{"type":"ptp"}]}"#).unwrap();
        let before = json!({
            "type": "sotto", "agentSocket": "/old", "exemptNamespaces": ["registry"], "note": 7,
        });
        let made = primary.with_plugin("10-a", &ENTRY, Some(&before));
        let mut expected = ours();
        expected["exemptNamespaces"] = json!(["registry"]);
        expected["note"] = json!(7);
        assert_eq!(made.ours(), Some(&expected));
        let exempt = [String::from("infra")];
        let flag = Entry { exempt: Some(&exempt), ..ENTRY };
        let made = primary.with_plugin("10-a", &flag, made.ours());
        assert_eq!(made.ours().unwrap()["exemptNamespaces"], json!(["infra"]));
    }

    #[test]
    fn an_entry_of_ours_in_the_networks_own_file_is_not_doubled() {
        let text = r#"{"name":"a","plugins":[{"type":"sotto","note":1},{"type":"ptp"}]}"#;
        let made = Conflist::parse(text).unwrap().with_plugin("10-a", &ENTRY, None);
        assert_eq!(made.kinds().collect::<Vec<_>>(), ["ptp", "sotto"]);
        assert_eq!(made.ours().unwrap()["note"], 1);
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let none = r#"{"plugins":[]}"#;
        for text in ["", "{", "[]", "7", "{}", r#"{"plugins":{}}"#, r#"{"plugins":null}"#, none] {
            assert!(Conflist::parse(text).is_err(), "{text}");
        }
    }
}
