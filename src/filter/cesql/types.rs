//! Owns what can be known of an expression without an event: the values that it compares an attribute with.

use std::collections::BTreeSet;

use super::ast::{Link, Node, Operator};

/// The texts one of which attribute `name` must have for the node to be true; `None` when it may have others.
pub(super) fn exact_values<'n>(node: &'n Node, name: &str) -> Option<BTreeSet<&'n str>> {
    match node {
        Node::Chain { first, rest } => match rest.as_slice() {
            [Link { operator: Operator::Equal, operand, .. }] => {
                let text = match (first.is_attribute(name), operand.is_attribute(name)) {
                    (true, _) => operand.text(),
                    (_, true) => first.text(),
                    _ => None,
                };
                text.map(|text| BTreeSet::from([text]))
            }
            _ => logic(exact_values(first, name), rest, name),
        },
        Node::In { operand, set, negated: false, .. } if operand.is_attribute(name) => {
            set.iter().map(Node::text).collect()
        }
        _ => None,
    }
}

fn logic<'n>(first: Option<BTreeSet<&'n str>>, rest: &'n [Link], name: &str) -> Option<BTreeSet<&'n str>> {
    rest.iter().try_fold(first, |known, link| {
        let other = exact_values(&link.operand, name);
        match link.operator {
            Operator::And => Some(both(known, other)),
            // Where exactly one holds, one holds.
            Operator::Or | Operator::Xor => Some(either(known, other)),
            _ => None,
        }
    })?
}

/// What two conditions that must both hold leave, where `None` is any value.
pub(in crate::filter) fn both<'n>(
    left: Option<BTreeSet<&'n str>>,
    right: Option<BTreeSet<&'n str>>,
) -> Option<BTreeSet<&'n str>> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.intersection(&right).copied().collect()),
        (left, right) => left.or(right),
    }
}

/// What two conditions one of which must hold leave, where `None` is any value.
pub(in crate::filter) fn either<'n>(
    left: Option<BTreeSet<&'n str>>,
    right: Option<BTreeSet<&'n str>>,
) -> Option<BTreeSet<&'n str>> {
    let mut values = left?;
    values.extend(right?);
    Some(values)
}
