//! Owns the way from what was written to compiled filters, and all that can be wrong on it.

use serde_json::{Map, Value};

use super::Fault;
use super::cesql::Expression;
use super::node::{Condition, Node, Test};

/// `all`, `any` and `not` inside one another; each costs a frame of the stack, here and in evaluation.
const MAX_DEPTH: usize = 32;

const DIALECTS: [(&str, Dialect); 7] = [
    ("exact", Dialect::Map(Test::Is)),
    ("prefix", Dialect::Map(Test::StartsWith)),
    ("suffix", Dialect::Map(Test::EndsWith)),
    ("all", Dialect::List(Node::All)),
    ("any", Dialect::List(Node::Any)),
    ("not", Dialect::Not),
    ("cesql", Dialect::Cesql),
];

#[derive(Clone, Copy)]
enum Dialect {
    Map(fn(String) -> Test),
    List(fn(Vec<Node>) -> Node),
    Not,
    Cesql,
}

/// Compiles a list whose entries must all hold; it may be empty.
pub(super) fn filters(filters: &Value) -> Result<Node, Vec<Fault>> {
    let mut compiler = Compiler::default();
    let nodes = compiler.list(filters, &Place { path: "", depth: 0 });
    compiler.result(nodes.map(Node::All))
}

/// Compiles a map of names and values, an empty value standing for any that is there; it may be empty.
pub(super) fn attributes(attributes: &Value) -> Result<Node, Vec<Fault>> {
    let mut compiler = Compiler::default();
    let place = Place { path: "", depth: 0 };
    let test = |value: String| if value.is_empty() { Test::IsNotEmpty } else { Test::Is(value) };
    let conditions = compiler.map(attributes, &place).map(|map| compiler.conditions(map, &place, test));
    compiler.result(conditions.map(Node::Attributes))
}

/// Collects all faults. What has one compiles to `None`, or is left out; no node is used then.
#[derive(Default)]
struct Compiler {
    faults: Vec<Fault>,
}

#[derive(Clone, Copy)]
struct Place<'p> {
    path: &'p str,
    depth: usize,
}

impl Compiler {
    fn result(self, node: Option<Node>) -> Result<Node, Vec<Fault>> {
        match node {
            Some(node) if self.faults.is_empty() => Ok(node),
            _ => Err(self.faults),
        }
    }

    fn list(&mut self, value: &Value, at: &Place<'_>) -> Option<Vec<Node>> {
        let Value::Array(filters) = value else {
            return self.fault(at.path, format!("is {}, expected a list of filters", kind(value)));
        };
        let compile = |(index, filter)| {
            let path = format!("{}[{index}]", at.path);
            self.filter(filter, &Place { path: &path, depth: at.depth + 1 })
        };
        Some(filters.iter().enumerate().filter_map(compile).collect())
    }

    /// One entry: a map with exactly one dialect.
    fn filter(&mut self, filter: &Value, at: &Place<'_>) -> Option<Node> {
        if at.depth > MAX_DEPTH {
            return self
                .fault(at.path, format!("is nested too deeply, at most {MAX_DEPTH} filters may be in one another"));
        }
        let dialects = self.map(filter, at)?;
        let mut known = Vec::new();
        for (name, value) in dialects {
            match DIALECTS.iter().find(|(dialect, _)| dialect == name) {
                Some((_, dialect)) => known.push((name, *dialect, value)),
                None => self.unknown_dialect(name, at),
            }
        }
        match known.as_slice() {
            [(name, dialect, value)] => {
                let path = child(at.path, name);
                self.dialect(*dialect, value, &Place { path: &path, ..*at })
            }
            [] if dialects.is_empty() => self.fault(at.path, format!("is empty, expected one of {}", dialect_names())),
            [] => None,
            several => {
                let names: Vec<String> = several.iter().map(|(name, ..)| format!("'{name}'")).collect();
                let hint = "to combine them, list each on its own, or under 'all' or 'any'";
                self.fault(at.path, format!("has {}, expected exactly one dialect; {hint}", names.join(" and ")))
            }
        }
    }

    fn unknown_dialect(&mut self, name: &str, at: &Place<'_>) {
        let message = match DIALECTS.iter().find(|(dialect, _)| name.trim().eq_ignore_ascii_case(dialect)) {
            Some((dialect, _)) => format!("is no filter dialect, did you mean '{dialect}'?"),
            None => format!("is no filter dialect, expected one of {}", dialect_names()),
        };
        self.fault::<()>(&child(at.path, name), message);
    }

    fn dialect(&mut self, dialect: Dialect, value: &Value, at: &Place<'_>) -> Option<Node> {
        match dialect {
            Dialect::Map(test) => {
                let map = self.map(value, at)?;
                if map.is_empty() {
                    return self.fault(at.path, "is empty, expected at least one attribute".to_owned());
                }
                self.check_values(map, at);
                Some(Node::Attributes(self.conditions(map, at, test)))
            }
            Dialect::List(combine) => {
                let nodes = self.list(value, at)?;
                if value.as_array().is_some_and(Vec::is_empty) {
                    return self.fault(at.path, "is empty, expected at least one filter".to_owned());
                }
                Some(combine(nodes))
            }
            Dialect::Not => {
                let inner = Place { depth: at.depth + 1, ..*at };
                Some(Node::Not(Box::new(self.filter(value, &inner)?)))
            }
            Dialect::Cesql => self.cesql(value, at),
        }
    }

    fn cesql(&mut self, value: &Value, at: &Place<'_>) -> Option<Node> {
        let Value::String(text) = value else {
            return self.fault(at.path, format!("is {}, expected a CloudEvents SQL expression as text", kind(value)));
        };
        let checked = Expression::parse(text).and_then(|expression| {
            expression.check_functions()?;
            Ok(expression)
        });
        match checked {
            Ok(expression) => Some(Node::Cesql(expression)),
            Err(fault) => self.fault(at.path, format!("is no valid CloudEvents SQL: {fault}")),
        }
    }

    fn conditions(&mut self, map: &Map<String, Value>, at: &Place<'_>, test: fn(String) -> Test) -> Vec<Condition> {
        let mut conditions = Vec::with_capacity(map.len());
        for (name, value) in map {
            let path = child(at.path, name);
            if !is_attribute_name(name) {
                let rule = "expected lower-case letters and digits, the first a letter";
                self.fault::<()>(&path, format!("'{name}' is no attribute name, {rule}"));
            }
            match value {
                Value::String(text) => conditions.push(Condition { name: name.clone(), test: test(text.clone()) }),
                other => {
                    let hint = if other.is_number() || other.is_boolean() { "; put it in quotes" } else { "" };
                    self.fault::<()>(&path, format!("is {}, expected text{hint}", kind(other)));
                }
            }
        }
        conditions
    }

    fn check_values(&mut self, map: &Map<String, Value>, at: &Place<'_>) {
        for (name, _) in map.iter().filter(|(_, value)| value.as_str() == Some("")) {
            self.fault::<()>(&child(at.path, name), "is empty, expected a value".to_owned());
        }
    }

    fn map<'v>(&mut self, value: &'v Value, at: &Place<'_>) -> Option<&'v Map<String, Value>> {
        match value {
            Value::Object(map) => Some(map),
            other => self.fault(at.path, format!("is {}, expected a map", kind(other))),
        }
    }

    fn fault<T>(&mut self, path: &str, message: String) -> Option<T> {
        self.faults.push(Fault { path: path.to_owned(), message });
        None
    }
}

/// Knative's rule, which is stricter than CloudEvents': no digit comes first.
fn is_attribute_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn dialect_names() -> String {
    DIALECTS.map(|(name, _)| name).join(", ")
}

/// The path of a field; one that would read as more than one is quoted.
fn child(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty() && name.chars().all(|character| character.is_alphanumeric() || character == '-');
    if is_plain { format!("{path}.{name}") } else { format!("{path}.\"{}\"", name.escape_debug()) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}
