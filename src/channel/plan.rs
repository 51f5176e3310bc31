//! What JetStream has to do so that a stream or a consumer is as declared. It is found out before anything is done, so that it
//! can be shown in place of being done; the bridge does exactly what is shown.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::label;

/// What has to be done to one stream or consumer.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It is as declared.
    Keep,
    /// It is not there; this is its whole configuration.
    Create(Value),
    /// It is there and differs; `config` is its whole configuration afterwards.
    Update { config: Value, changes: Vec<Change> },
    /// It is there and differs, and at least one change has an obstacle. Nothing is done.
    Cannot(Vec<Change>),
}

/// One field of a configuration that is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChangedField)]
pub struct Change {
    /// By its name in JetStream's configuration.
    pub field: String,
    /// `null` where it is not set.
    pub from: Value,
    pub to: Value,
    /// Why JetStream cannot make this change to what is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
}

impl Step {
    /// What leads from the configuration that is there to `wanted`. `obstacle` knows which changes JetStream refuses.
    pub(super) fn between(existing: &Value, wanted: Value, obstacle: impl Fn(&Change) -> Option<String>) -> Self {
        let mut changes = changes(existing, &wanted);
        for change in &mut changes {
            change.obstacle = obstacle(change);
        }
        match changes.iter().any(|change| change.obstacle.is_some()) {
            true => Self::Cannot(changes),
            false if changes.is_empty() => Self::Keep,
            false => Self::Update { config: wanted, changes },
        }
    }
}

/// All that differs, in one line.
pub(super) fn listed(changes: &[Change]) -> String {
    let one = |change: &Change| format!("{} is declared {} and is {}", change.field, change.to, change.from);
    changes.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Why the changes cannot be made.
pub(super) fn obstacles(changes: &[Change]) -> String {
    changes.iter().filter_map(|change| change.obstacle.clone()).collect::<Vec<_>>().join("; ")
}

/// The fields of `wanted` that `existing` has otherwise.
fn changes(existing: &Value, wanted: &Value) -> Vec<Change> {
    let fields = wanted.as_object().into_iter().flatten();
    let differing = fields.filter(|(field, value)| {
        let there = &existing[field.as_str()];
        !is_same(there, value) || (*field == "metadata" && label::says_more(there, value))
    });
    differing
        .map(|(field, value)| Change {
            field: field.clone(),
            from: existing[field.as_str()].clone(),
            to: value.clone(),
            obstacle: None,
        })
        .collect()
}

/// Whether what the server has is what is declared. The server leaves out what is empty, and adds fields of its own to parts
/// of a configuration.
pub(super) fn is_same(there: &Value, declared: &Value) -> bool {
    match (there, declared) {
        (Value::Object(there), Value::Object(declared)) => {
            declared.iter().all(|(field, value)| is_same(there.get(field).unwrap_or(&Value::Null), value))
        }
        (Value::Array(there), Value::Array(declared)) => {
            there.len() == declared.len() && there.iter().zip(declared).all(|(one, other)| is_same(one, other))
        }
        (Value::Null, declared) => {
            [Value::Null, json!(false), json!(0), json!(""), json!([]), json!({})].contains(declared)
        }
        (there, declared) => there == declared,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    fn step(existing: &Value, wanted: Value) -> Step {
        Step::between(existing, wanted, |change| (change.field == "storage").then(|| "never".to_owned()))
    }

    #[test]
    fn what_the_server_leaves_out_or_adds_is_no_difference() {
        let existing = json!({ "storage": "file", "max_msgs": -1, "placement": { "cluster": "C" }, "sources": [{ "name": "A", "x": 1 }] });
        let wanted = json!({
            "storage": "file", "no_ack": false, "placement": { "cluster": "C", "tags": [] }, "sources": [{ "name": "A" }]
        });
        assert_eq!(step(&existing, wanted), Step::Keep);
        assert!(!is_same(&json!({ "cluster": "C", "tags": ["t"] }), &json!({ "cluster": "C", "tags": [] })));
        assert!(!is_same(&json!(["a"]), &json!(["a", "b"])));
    }

    #[test]
    fn one_obstacle_stops_the_whole_change() {
        let existing = json!({ "storage": "file", "max_msgs": -1 });
        let Step::Update { changes, .. } = step(&existing, json!({ "storage": "file", "max_msgs": 5 })) else {
            panic!("no update")
        };
        assert_eq!(listed(&changes), "max_msgs is declared 5 and is -1");
        let Step::Cannot(changes) = step(&existing, json!({ "storage": "memory", "max_msgs": 5 })) else {
            panic!("no obstacle")
        };
        assert_eq!(
            listed(&changes),
            "max_msgs is declared 5 and is -1, storage is declared \"memory\" and is \"file\""
        );
        assert_eq!(obstacles(&changes), "never");
    }
}
