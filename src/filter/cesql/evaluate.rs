//! Owns what an expression means: evaluation of the tree on attributes.
//!
//! Evaluation stops at the first error. Each expression around the place of the error has the zero value of its own type
//! (specification, sections 3.2 and 4.1), so there is always a value too.

use std::borrow::Cow;

use super::ast::{Link, Literal, Node, Operator, Precedence};
use super::functions::Call;
use super::value::{Type, Value};
use super::{Attributes, ErrorKind};

/// Evaluation of one expression on one event.
pub(super) struct Evaluator<'a, A: ?Sized> {
    pub(super) attributes: &'a A,
}

/// An error, its place in the expression, and the value there is all the same.
#[derive(Debug)]
pub(super) struct Failure<'a> {
    pub(super) kind: ErrorKind,
    pub(super) at: u32,
    pub(super) value: Value<'a>,
}

pub(super) type Outcome<'a> = Result<Value<'a>, Failure<'a>>;

impl<'a, A: Attributes + ?Sized> Evaluator<'a, A> {
    pub(super) fn evaluate(&self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Literal(Literal::Boolean(value)) => Ok(Value::Boolean(*value)),
            Node::Literal(Literal::Integer(value)) => Ok(Value::Integer(*value)),
            Node::Literal(Literal::String(text)) => Ok(Value::String(Cow::Borrowed(text))),
            Node::Attribute { name, at } => {
                let missing = Failure { kind: ErrorKind::MissingAttribute, at: *at, value: Value::Boolean(false) };
                self.attributes.attribute(name).ok_or(missing)
            }
            Node::Not { operand, at } => self.not(operand, *at),
            Node::Negate { operand, at } => {
                let value = self.integer(self.operand(operand, Type::Integer)?, *at)?;
                value.checked_neg().map(Value::Integer).ok_or(failure(ErrorKind::Math, *at, Type::Integer))
            }
            Node::Chain { first, rest } => self.chain(first, rest),
            Node::Like { operand, pattern, negated } => {
                let text = self.operand(operand, Type::Boolean)?.into_text();
                Ok(Value::Boolean(pattern.matches(&text) != *negated))
            }
            Node::In { operand, set, negated, at } => {
                let value = self.operand(operand, Type::Boolean)?;
                Ok(Value::Boolean(self.is_in(&value, set, *at)? != *negated))
            }
            Node::Exists { name } => Ok(Value::Boolean(self.attributes.attribute(name).is_some())),
            Node::Call { function, arguments, at } => {
                Call { evaluator: self, function: *function, arguments, at: *at }.run()
            }
            Node::UnknownCall { at, .. } => Err(failure(ErrorKind::MissingFunction, *at, Type::Boolean)),
        }
    }

    /// The value of an operand of an expression of type `returns`, whose zero value that expression has if this one fails.
    pub(super) fn operand(&self, node: &'a Node, returns: Type) -> Outcome<'a> {
        self.evaluate(node).map_err(|fault| Failure { value: returns.zero(), ..fault })
    }

    /// A number is no operand of `NOT`, and what cannot be negated counts as false: so says the conformance kit, though `BOOL(10)`
    /// is true.
    fn not(&self, operand: &'a Node, at: u32) -> Outcome<'a> {
        let value = self.operand(operand, Type::Boolean)?;
        match (&value, value.boolean()) {
            (Value::Integer(_), _) | (_, Err(_)) => {
                Err(Failure { kind: ErrorKind::Cast, at, value: Value::Boolean(true) })
            }
            (_, Ok(value)) => Ok(Value::Boolean(!value)),
        }
    }

    fn chain(&self, first: &'a Node, rest: &'a [Link]) -> Outcome<'a> {
        let returns = match rest.first().map(|link| link.operator.precedence()) {
            Some(Precedence::Additive | Precedence::Multiplicative) => Type::Integer,
            Some(Precedence::Logic | Precedence::Comparison) | None => Type::Boolean,
        };
        let mut left = self.operand(first, returns)?;
        for link in rest {
            left = match returns {
                Type::Integer => self.arithmetic(left, link)?,
                _ if link.operator.precedence() == Precedence::Comparison => self.comparison(left, link)?,
                _ => self.logic(&left, link)?,
            };
        }
        Ok(left)
    }

    fn logic(&self, left: &Value<'a>, link: &'a Link) -> Outcome<'a> {
        let boolean = |value: &Value<'a>| value.boolean().map_err(|_| failure(ErrorKind::Cast, link.at, Type::Boolean));
        let left = boolean(left)?;
        match (link.operator, left) {
            (Operator::And, false) => return Ok(Value::Boolean(false)),
            (Operator::Or, true) => return Ok(Value::Boolean(true)),
            _ => {}
        }
        let right = boolean(&self.operand(&link.operand, Type::Boolean)?)?;
        // A left side that decided nothing leaves it to the right one.
        Ok(Value::Boolean(if link.operator == Operator::Xor { left != right } else { right }))
    }

    fn comparison(&self, left: Value<'a>, link: &'a Link) -> Outcome<'a> {
        let right = self.operand(&link.operand, Type::Boolean)?;
        let cast_fault = |_| failure(ErrorKind::Cast, link.at, Type::Boolean);
        if let Operator::Equal | Operator::NotEqual = link.operator {
            // The type of the right side decides which of the three meanings of `=` it is.
            let is_equal = left.cast(right.kind()).map_err(cast_fault)? == right;
            return Ok(Value::Boolean(is_equal == (link.operator == Operator::Equal)));
        }
        let left = left.integer().map_err(cast_fault)?;
        let right = right.integer().map_err(cast_fault)?;
        Ok(Value::Boolean(match link.operator {
            Operator::Less => left < right,
            Operator::LessOrEqual => left <= right,
            Operator::Greater => left > right,
            _ => left >= right,
        }))
    }

    /// A result that 32 bits do not hold is a math error, as is a division by zero.
    fn arithmetic(&self, left: Value<'a>, link: &'a Link) -> Outcome<'a> {
        let right = self.operand(&link.operand, Type::Integer)?;
        let left = self.integer(left, link.at)?;
        let right = self.integer(right, link.at)?;
        let result = match link.operator {
            Operator::Plus => left.checked_add(right),
            Operator::Minus => left.checked_sub(right),
            Operator::Times => left.checked_mul(right),
            Operator::Divide => left.checked_div(right),
            _ => left.checked_rem(right),
        };
        result.map(Value::Integer).ok_or(failure(ErrorKind::Math, link.at, Type::Integer))
    }

    /// The left side's type decides what the values of the set are cast to.
    fn is_in(&self, value: &Value<'a>, set: &'a [Node], at: u32) -> Result<bool, Failure<'a>> {
        for node in set {
            let candidate = self.operand(node, Type::Boolean)?;
            let candidate = candidate.cast(value.kind()).map_err(|_| failure(ErrorKind::Cast, at, Type::Boolean))?;
            if candidate == *value {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn integer(&self, value: Value<'a>, at: u32) -> Result<i32, Failure<'a>> {
        value.integer().map_err(|_| failure(ErrorKind::Cast, at, Type::Integer))
    }
}

fn failure(kind: ErrorKind, at: u32, returns: Type) -> Failure<'static> {
    Failure { kind, at, value: returns.zero() }
}
