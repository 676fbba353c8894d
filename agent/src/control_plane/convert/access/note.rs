//! Where an AuthorizationPolicy does less or more than it says.

use std::fmt;

use crate::control_plane::convert::spec::ActionName;

/// Where a policy does less or more than it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// An action that layer 4 does not have.
    UnsupportedAction(ActionName),
    /// It is for a waypoint.
    Targeted,
    /// An ALLOW rule asks for what layer 4 does not see.
    RuleLeftOut(Dropped),
    /// What a DENY rule asks for that layer 4 does not see is taken as met.
    DeniesMore(Dropped),
    /// A DENY rule asks for nothing that layer 4 sees.
    DeniesNothing(Dropped),
    /// A DENY policy without any rule.
    NothingToDeny,
    /// Port 0 is asked for.
    PortZero,
    /// Principals that are written as URIs, which none is compared as.
    Schemes(Dropped),
}

/// What is dropped from a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The rule's place in `rules`.
    pub rule: usize,
    /// Names of the fields and attributes, in the order of their first appearance.
    pub names: Vec<String>,
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rules[{}] asks for what layer 4 does not see ({})",
            self.rule,
            self.names.join(", ")
        )
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnsupportedAction(action) => {
                let action = format!("{action:?}").to_uppercase();
                write!(f, "action {action} is not supported at layer 4: the policy has no effect")
            }
            Self::Targeted => f.write_str("targetRefs are for waypoints: nodes do not enforce it"),
            Self::RuleLeftOut(dropped) => {
                write!(f, "{dropped}: the rule is left out, it allows nothing")
            }
            Self::DeniesMore(dropped) => {
                write!(f, "{dropped}: it denies without asking for them, more than it says")
            }
            Self::DeniesNothing(dropped) => {
                write!(f, "{dropped} and for nothing else: it denies nothing")
            }
            Self::Schemes(Dropped { rule, names }) => write!(
                f,
                "rules[{rule}] has principals that match nobody ({}): they are written without \
                 spiffe://",
                names.join(", ")
            ),
            Self::PortZero => f.write_str("no connection has port 0"),
            Self::NothingToDeny => f.write_str("action DENY without rules denies nothing"),
        }
    }
}
