//! The language, construct by construct, in tables; and what holds of any text, any tree and any event.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Attributes, ErrorKind, Expression, MAX_DEPTH, MAX_LENGTH, Value};

/// Attributes of any of the three types.
pub(super) struct Typed(pub(super) BTreeMap<String, Json>);

impl Attributes for Typed {
    fn attribute(&self, name: &str) -> Option<Value<'_>> {
        Some(match self.0.get(name)? {
            Json::Bool(value) => Value::Boolean(*value),
            Json::Number(value) => Value::Integer(i32::try_from(value.as_i64()?).ok()?),
            Json::String(text) => Value::String(Cow::Borrowed(text)),
            _ => return None,
        })
    }
}

pub(super) fn json(value: &Value<'_>) -> Json {
    match value {
        Value::Boolean(value) => json!(value),
        Value::Integer(value) => json!(value),
        Value::String(text) => json!(text),
    }
}

fn event() -> Typed {
    let attributes = json!({
        "specversion": "1.0", "id": "a-1", "source": "/shop", "type": "com.example.order", "subject": "ünïcode",
        "exint": "42", "exbool": "TRUE", "empty": "", "123": "digits", "typedint": 42, "typedbool": true
    });
    Typed(serde_json::from_value(attributes).unwrap())
}

#[track_caller]
fn check(text: &str, expected: impl Into<Json>, error: Option<ErrorKind>) {
    let expression = Expression::parse(text).unwrap_or_else(|fault| panic!("{fault}"));
    let event = event();
    let evaluation = expression.evaluate(&event);
    let found = (json(&evaluation.value), evaluation.error.map(|error| error.kind));
    assert_eq!(found, (expected.into(), error), "{text}");
}

#[track_caller]
fn is(text: &str, expected: impl Into<Json>) {
    check(text, expected, None);
}

#[track_caller]
fn fails(text: &str, kind: ErrorKind, zero: impl Into<Json>) {
    check(text, zero, Some(kind));
}

#[track_caller]
fn refused(text: &str, expected: &str) {
    let fault = Expression::parse(text).unwrap_err().to_string();
    assert!(fault.contains(expected), "{text}: {fault}");
}

#[test]
fn literals_are_what_they_say() {
    is("TRUE", true);
    is("fAlSe", false);
    is("0", 0);
    is("+7", 7);
    is("007", 7);
    is("-2147483648", i32::MIN);
    is("2147483647", i32::MAX);
    is("'aBc'", "aBc");
    is(r#""aBc""#, "aBc");
    is("''", "");
    is(r#"'it\'s "so"'"#, r#"it's "so""#);
    is(r#""a \"b\" 'c'""#, r#"a "b" 'c'"#);
    is(r"'a\b\\'", r"a\b\\");
    is(" \t\r\n1\n", 1);
}

#[test]
fn attributes_are_strings_unless_they_come_typed() {
    is("id", "a-1");
    is("SubJect", "ünïcode");
    is("specversion", "1.0");
    is("EXISTS 123", true);
    is("123", 123);
    fails("1a", ErrorKind::MissingAttribute, false);
    is("exint", "42");
    is("typedint", 42);
    is("typedbool AND exbool", true);
    fails("missing", ErrorKind::MissingAttribute, false);
}

#[test]
fn operators_bind_in_the_order_of_the_specification() {
    is("4 * 2 + 4 / 2", 10);
    is("2 + 3 * 4", 14);
    is("(2 + 3) * 4", 20);
    is("10 - 3 - 2", 5);
    is("4-1", 3);
    is("100 / 5 / 2", 10);
    is("7 % 4 * 2", 6);
    is("1 + 1 = 2", true);
    is("2 = 1 + 1", true);
    is("1 < 2 = TRUE", true);
    is("-2 + 3", 1);
    is("2 - -3", 5);
    is("1 = 1 AND 2 = 2", true);
    // AND, OR and XOR share a level, from left to right.
    is("TRUE OR TRUE AND FALSE", false);
    is("TRUE OR (TRUE AND FALSE)", true);
    is("TRUE XOR TRUE OR TRUE", true);
    is("FALSE AND TRUE OR TRUE", true);
    // NOT and - take no more than what directly follows.
    is("NOT TRUE = FALSE", true);
    is("NOT FALSE AND FALSE", false);
    is("NOT EXISTS missing AND TRUE", true);
    is("-5 LIKE '-5'", true);
    is("NOT TRUE LIKE 'false'", true);
    // IN is tighter than +: one and whether 1 is 2.
    is("1 + 1 IN (2)", 1);
    is("id LIKE 'a%' = TRUE", true);
    is("TRUE = id LIKE 'a%'", true);
    is("1 IN (1) LIKE 'true'", true);
}

#[test]
fn logic_stops_where_it_is_decided() {
    is("FALSE AND 1 / 0 = 1", false);
    is("TRUE OR 1 / 0 = 1", true);
    is("FALSE AND missing", false);
    is("'true' AND 1", true);
    is("0 OR 'FALSE'", false);
    is("TRUE XOR FALSE", true);
    fails("TRUE AND (1 / 0 = 0)", ErrorKind::Math, false);
    fails("TRUE AND (missing = '')", ErrorKind::MissingAttribute, false);
    fails("missing OR TRUE", ErrorKind::MissingAttribute, false);
    fails("FALSE XOR missing", ErrorKind::MissingAttribute, false);
    fails("'maybe' AND TRUE", ErrorKind::Cast, false);
    fails("TRUE AND 'maybe'", ErrorKind::Cast, false);
}

#[test]
fn not_and_minus_cast_what_follows() {
    is("NOT TRUE", false);
    is("NOT 'false'", true);
    is("NOT NOT exbool", true);
    fails("NOT 10", ErrorKind::Cast, true);
    fails("NOT 'x'", ErrorKind::Cast, true);
    fails("NOT missing", ErrorKind::MissingAttribute, false);
    is("--10", 10);
    is("-'10'", -10);
    is("-TRUE", -1);
    is("-exint", -42);
    fails("-'x'", ErrorKind::Cast, 0);
    fails("-missing", ErrorKind::MissingAttribute, 0);
    fails("-(-2147483648)", ErrorKind::Math, 0);
}

#[test]
fn the_right_side_decides_what_equal_means() {
    is("1 = 1", true);
    is("1 != 2", true);
    is("1 <> 1", false);
    is("'a' = 'A'", false);
    is("exint = 42", true);
    is("exint = '42'", true);
    is("42 = exint", true);
    is("typedint = '42'", true);
    is("TRUE = 'TRUE'", false);
    is("'TRUE' = TRUE", true);
    is("TRUE = 1", true);
    is("2 = TRUE", true);
    is("empty = ''", true);
    fails("id = 1", ErrorKind::Cast, false);
    fails("id != 1", ErrorKind::Cast, false);
    fails("id = TRUE", ErrorKind::Cast, false);
    fails("missing = 1", ErrorKind::MissingAttribute, false);
    fails("1 != missing", ErrorKind::MissingAttribute, false);
    fails("missing <> missing", ErrorKind::MissingAttribute, false);
}

#[test]
fn order_is_of_integers() {
    is("1 < 2", true);
    is("2 <= 2", true);
    is("2 > 2", false);
    is("2 >= 3", false);
    is("exint > '7'", true);
    is("'10' > '9'", true);
    is("FALSE < TRUE", true);
    fails("'a' < 'b'", ErrorKind::Cast, false);
    fails("missing < 2", ErrorKind::MissingAttribute, false);
    fails("1 > '2147483648'", ErrorKind::Cast, false);
}

#[test]
fn arithmetic_truncates_and_fails_rather_than_wrap() {
    is("5 / 3", 1);
    is("-5 / 3", -1);
    is("5 % 3", 2);
    is("-5 % 3", -2);
    is("5 % -3", 2);
    is("'5' + TRUE", 6);
    fails("5 / 0", ErrorKind::Math, 0);
    fails("5 % 0", ErrorKind::Math, 0);
    fails("missing / 0", ErrorKind::MissingAttribute, 0);
    fails("2147483647 + 1", ErrorKind::Math, 0);
    fails("-2147483648 - 1", ErrorKind::Math, 0);
    fails("65536 * 65536", ErrorKind::Math, 0);
    fails("-2147483648 / -1", ErrorKind::Math, 0);
    fails("-2147483648 % -1", ErrorKind::Math, 0);
    fails("1 + 'x'", ErrorKind::Cast, 0);
    fails("1 + ''", ErrorKind::Cast, 0);
    fails("1 + ' 1'", ErrorKind::Cast, 0);
    fails("1 + '99999999999'", ErrorKind::Cast, 0);
    fails("1 + (1 / 0)", ErrorKind::Math, 0);
}

#[test]
fn like_knows_two_wildcards_and_their_escapes() {
    is("'abc' LIKE 'abc'", true);
    is("'abc' LIKE 'a%'", true);
    is("'abc' LIKE '%c'", true);
    is("'abc' LIKE '%b%'", true);
    is("'abc' LIKE 'a_c'", true);
    is("'ac' LIKE 'a_c'", false);
    is("'ac' LIKE 'a%c'", true);
    is("'a' LIKE 'a%a'", false);
    is("'aba' LIKE 'a%a'", true);
    is("'' LIKE '%'", true);
    is("'' LIKE '_'", false);
    is("'ü' LIKE '_'", true);
    is("'50%' LIKE '50\\%'", true);
    is("'50x' LIKE '50\\%'", false);
    is("'a_b' LIKE 'a\\_b'", true);
    is("'axb' LIKE 'a\\_b'", false);
    is(r"'a\b' LIKE 'a\b'", true);
    is("'ABC' LIKE 'abc'", false);
    is("'abc' NOT LIKE 'a%'", false);
    is("234 LIKE '23_'", true);
    is("TRUE LIKE 'tr%'", true);
    fails("missing LIKE '%'", ErrorKind::MissingAttribute, false);
    fails("missing NOT LIKE '%'", ErrorKind::MissingAttribute, false);
}

#[test]
fn in_casts_to_the_left_side() {
    is("1 IN (3, 2, 1)", true);
    is("1 NOT IN (3, 2)", true);
    is("id IN ('b', source, 'a-1')", true);
    is("1 IN ('1')", true);
    is("'1' IN (1)", true);
    is("'TRUE' IN (TRUE)", false);
    is("TRUE IN ('TRUE')", true);
    is("1 IN (1, missing)", true);
    is("3 IN (1 + 2)", true);
    fails("1 IN (missing, 1)", ErrorKind::MissingAttribute, false);
    fails("1 IN ('x', 1)", ErrorKind::Cast, false);
    fails("1 NOT IN ('x')", ErrorKind::Cast, false);
    fails("missing IN (1)", ErrorKind::MissingAttribute, false);
}

#[test]
fn exists_asks_without_an_error() {
    is("EXISTS id AND EXISTS source AND EXISTS type AND EXISTS SPECVERSION", true);
    is("EXISTS missing", false);
    is("NOT EXISTS missing", true);
    is("EXISTS empty", true);
}

#[test]
fn functions_of_texts() {
    is("LENGTH('')", 0);
    is("length(subject)", 7);
    is("LENGTH(TRUE)", 4);
    is("CONCAT()", "");
    is("CONCAT('a', 1, TRUE)", "a1true");
    is("CONCAT_WS(',')", "");
    is("CONCAT_WS(',', 'a')", "a");
    is("concat_ws(', ', 'a', 'b', 1)", "a, b, 1");
    is("LOWER('ÄbC')", "äbc");
    is("UPPER('äbC')", "ÄBC");
    is("TRIM(' \t a b \u{a0}\n')", "a b");
    is("LEFT(subject, 2)", "ün");
    is("LEFT('abc', 10)", "abc");
    is("LEFT('abc', 0)", "");
    is("RIGHT(subject, 5)", "ïcode");
    is("RIGHT('abc', 10)", "abc");
    is("RIGHT('abc', '1')", "c");
    is("SUBSTRING('abcdef', 2)", "bcdef");
    is("SUBSTRING(subject, 3, 2)", "ïc");
    is("SUBSTRING('abc', -2)", "bc");
    is("SUBSTRING('abc', -3, 2)", "ab");
    is("SUBSTRING('abc', 0)", "");
    is("SUBSTRING('abc', 3, 100)", "c");
    is("SUBSTRING('abc', 2, 0)", "");
    fails("LEFT('abc', -2)", ErrorKind::FunctionEvaluation, "abc");
    fails("RIGHT('abc', -2)", ErrorKind::FunctionEvaluation, "abc");
    fails("SUBSTRING('abc', 4)", ErrorKind::FunctionEvaluation, "");
    fails("SUBSTRING('abc', -4)", ErrorKind::FunctionEvaluation, "");
    fails("SUBSTRING('abc', 1, -1)", ErrorKind::FunctionEvaluation, "");
    fails("SUBSTRING('abc', -2147483648)", ErrorKind::FunctionEvaluation, "");
    fails("LEFT('abc', 'x')", ErrorKind::Cast, "");
    fails("LENGTH(missing)", ErrorKind::MissingAttribute, 0);
    fails("CONCAT('a', missing)", ErrorKind::MissingAttribute, "");
    fails("LOWER(missing) = ''", ErrorKind::MissingAttribute, false);
}

#[test]
fn functions_of_numbers_and_types() {
    is("ABS(-10)", 10);
    is("ABS('10')", 10);
    fails("ABS(-2147483648)", ErrorKind::Math, i32::MAX);
    fails("ABS('x')", ErrorKind::Cast, 0);
    is("INT('-1')", -1);
    is("INT('+1')", 1);
    is("INT(TRUE)", 1);
    fails("INT('ABC')", ErrorKind::Cast, 0);
    fails("INT('2147483648')", ErrorKind::Cast, 0);
    is("BOOL('TRUE')", true);
    is("BOOL(-50)", true);
    is("BOOL(0)", false);
    fails("BOOL('1')", ErrorKind::Cast, false);
    is("STRING(TRUE)", "true");
    is("STRING(-1)", "-1");
    is("IS_INT('12') AND NOT IS_INT('x')", true);
    is("IS_BOOL('true') AND NOT IS_BOOL('x')", true);
    fails("IS_INT(missing)", ErrorKind::MissingAttribute, false);
}

#[test]
fn an_unknown_function_is_an_error_and_can_be_found_before() {
    fails("FOO(1)", ErrorKind::MissingFunction, false);
    fails("CONCAT_WS()", ErrorKind::MissingFunction, false);
    fails("LENGTH('a', 'b')", ErrorKind::MissingFunction, false);
    let shown = |text| Expression::parse(text).unwrap().check_functions().unwrap_err().to_string();
    assert!(shown("TRUE AND foo(1)").starts_with("there is no function 'FOO', expected one of LENGTH, CONCAT"));
    assert_eq!(
        shown("1 IN (LENGTH('a', 'b'))"),
        "LENGTH takes 1 argument, not 2\n  1 IN (LENGTH('a', 'b'))\n        ^"
    );
    assert!(shown("NOT SUBSTRING('a')").contains("takes 2 to 3 arguments, not 1"));
    assert!(shown("ABS(CONCAT_WS())").contains("takes at least 1 argument, not 0"));
    assert!(Expression::parse("LENGTH(id) = 1").unwrap().check_functions().is_ok());
}

#[test]
fn a_fault_shows_the_place_and_what_was_expected() {
    let shown = |text| Expression::parse(text).unwrap_err().to_string();
    let a_value = "an attribute, a text, a number, true, false, a function, NOT, EXISTS, '-' or '('";
    assert_eq!(shown("type ="), format!("expected {a_value}, found the end\n  type =\n        ^"));
    assert_eq!(shown("type == 'x'"), format!("expected {a_value}, found an operator '='\n  type == 'x'\n        ^"));
    assert_eq!(shown("a = 'ü' AND\n  b c"), "expected an operator or the end, found a name 'c'\n    b c\n      ^");
    assert_eq!(
        shown("'ü' LIKE 123"),
        "expected the pattern after LIKE as a text in quotes, found a number '123'\n  'ü' LIKE 123\n           ^"
    );
    let long = format!("{} !", "a AND ".repeat(100));
    assert!(shown(&long).lines().all(|line| line.len() < 130));
}

#[test]
fn what_is_no_expression_is_refused() {
    for text in ["", "   ", "(", ")", "()", "1 +", "AND", "NOT", "a b", "a NOT", "a NOT b", "EXISTS", "EXISTS 'a'"] {
        assert!(Expression::parse(text).is_err(), "{text}");
    }
    refused("ABC(", "found the end");
    refused("ABC(1", "expected an operator, ',' or ')'");
    refused("ABC(1,)", "found ')'");
    refused("a IN ()", "found ')'");
    refused("a IN 1", "expected '(' and a list of values after IN");
    refused("a LIKE b", "expected the pattern after LIKE");
    refused("a LIKE CONCAT('a')", "expected the pattern after LIKE");
    refused("'abc", "no closing '");
    refused("\"abc'", "no closing \"");
    refused(r"'abc\'", "no closing '");
    refused("2147483648", "out of range");
    refused("-2147483649", "out of range");
    refused("a && b", "'and' is AND");
    refused("a || b", "'or' is OR");
    refused("!a", "'not' is NOT");
    refused("a = ü", "'ü' means nothing here");
    refused("my_attribute = 1", "'my_attribute' is no attribute name");
    refused("my-attribute = 1 (", "found '('");
    refused("+a", "a number after the sign");
    refused("F1(2)", "found '('");
    refused(&"a".repeat(MAX_LENGTH + 1), "at most 65536 are allowed");
}

#[test]
fn nesting_is_bounded_and_length_is_not_nesting() {
    let nested = |depth: usize| format!("{}TRUE{}", "(".repeat(depth), ")".repeat(depth));
    assert!(Expression::parse(&nested(MAX_DEPTH - 1)).is_ok());
    refused(&nested(MAX_DEPTH), "nested more than 64 deep");
    for hostile in ["(", "NOT ", "-", "ABS(", "1 IN (", "TRUE AND (", "1 = -("] {
        let times = MAX_LENGTH / hostile.len();
        assert!(Expression::parse(&hostile.repeat(times)).is_err(), "{hostile}");
    }
    refused(&format!("id{}", " LIKE '%'".repeat(5000)), "nested more than 64 deep");
    let longest = |part: &str, last: &str| format!("{}{last}", part.repeat((MAX_LENGTH - last.len()) / part.len()));
    is(&longest("id='x' OR ", "id='a-1'"), true);
    is(&longest("0+", "1"), 1);
    is(&longest("1=", "TRUE"), true);
    is(&format!("1 IN ({}1)", "2,".repeat(30_000)), true);
    is(&format!("LENGTH(CONCAT({}1))", "2,".repeat(30_000)), 30_001);
}

#[test]
fn a_text_that_grows_too_long_is_an_error() {
    let long = Typed(BTreeMap::from([("x".to_owned(), json!("x".repeat(super::MAX_TEXT_LENGTH)))]));
    let kind = |text| Expression::parse(text).unwrap().evaluate(&long).error.map(|error| error.kind);
    assert_eq!(kind("CONCAT(x)"), None);
    assert_eq!(kind("CONCAT(x, x)"), Some(ErrorKind::FunctionEvaluation));
}

#[test]
fn a_predicate_is_a_boolean_without_errors() {
    let holds = |text| Expression::parse(text).unwrap().holds(&event()).map_err(|error| error.kind);
    assert_eq!(holds("id = 'a-1'"), Ok(true));
    assert_eq!(holds("id = 'a-2'"), Ok(false));
    assert_eq!(holds("missing = 'a' OR TRUE"), Err(ErrorKind::MissingAttribute));
    assert_eq!(holds("exint"), Err(ErrorKind::Generic));
    assert_eq!(holds("1"), Err(ErrorKind::Generic));
    let expression = Expression::parse("TRUE AND missing = 'a'").unwrap();
    let error = expression.holds(&event()).unwrap_err();
    let shown = "the event has no such attribute\n  TRUE AND missing = 'a'\n           ^";
    assert_eq!(expression.describe(&error), shown);
}

#[test]
fn comparisons_with_a_text_tell_the_values_that_can_match() {
    let types = |text| {
        let expression = Expression::parse(text).unwrap();
        expression.exact_values("type").map(|types| types.into_iter().collect::<Vec<_>>().join(" "))
    };
    let some = |types: &str| Some(types.to_owned());
    assert_eq!(types("type = 'a'"), some("a"));
    assert_eq!(types("'a' = TYPE"), some("a"));
    assert_eq!(types("type IN ('b', 'a')"), some("a b"));
    assert_eq!(types("type = 'a' OR type = 'b'"), some("a b"));
    assert_eq!(types("type = 'a' XOR type = 'b'"), some("a b"));
    assert_eq!(types("type = 'a' AND source LIKE '/%'"), some("a"));
    assert_eq!(types("exint > 3 AND (type = 'a' OR type = 'b')"), some("a b"));
    assert_eq!(types("type IN ('a', 'b') AND type IN ('b', 'c')"), some("b"));
    assert_eq!(types("type = 'a' AND type = 'b'"), some(""));
    for open in [
        "type != 'a'",
        "type = 'a' OR source = '/'",
        "NOT (type = 'a')",
        "type NOT IN ('a')",
        "type LIKE 'a'",
        "type = source",
        "type IN ('a', source)",
        "LOWER(type) = 'a'",
        "type = 1",
        "type = 'a' = TRUE",
        "source = 'a'",
        "TRUE",
        "type = 'a' XOR TRUE",
        "type = 'a' = FALSE",
    ] {
        assert_eq!(types(open), None, "{open}");
    }
}

/// Expressions that can be parsed, of any shape.
fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(|number| number.to_string()),
        "'[a-z0-9%_ü ]{0,4}'",
        prop_oneof![
            Just("id"),
            Just("exint"),
            Just("exbool"),
            Just("missing"),
            Just("typedint"),
            Just("TRUE"),
            Just("false")
        ]
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 3, |inner| {
        let operators = ["AND", "OR", "XOR", "=", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"];
        let functions = [
            "LENGTH",
            "CONCAT",
            "CONCAT_WS",
            "LOWER",
            "UPPER",
            "TRIM",
            "LEFT",
            "RIGHT",
            "SUBSTRING",
            "ABS",
            "INT",
            "BOOL",
            "STRING",
            "NOTHING",
        ];
        prop_oneof![
            (inner.clone(), prop::sample::select(operators.to_vec()), inner.clone())
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            inner.clone().prop_map(|inner| format!("NOT ({inner})")),
            inner.clone().prop_map(|inner| format!("-({inner})")),
            (inner.clone(), "'[ab1%_ü]{0,4}'").prop_map(|(inner, pattern)| format!("({inner}) LIKE {pattern}")),
            (inner.clone(), prop::collection::vec(inner.clone(), 1..3))
                .prop_map(|(inner, set)| format!("({inner}) NOT IN ({})", set.join(", "))),
            (prop::sample::select(functions.to_vec()), prop::collection::vec(inner, 0..4))
                .prop_map(|(name, arguments)| format!("{name}({})", arguments.join(", "))),
        ]
    })
}

proptest! {
    #[test]
    fn parsing_never_panics(text in "\\PC{0,60}", words in "([a-z ()'\"%=<!+-]|NOT |LIKE |IN |EXISTS ){0,40}") {
        for text in [text, words] {
            if let Err(fault) = Expression::parse(&text) {
                prop_assert!(fault.at <= text.len());
                prop_assert!(!fault.to_string().is_empty());
            }
        }
    }

    #[test]
    fn evaluating_never_panics_and_is_always_the_same(text in any_expression()) {
        let event = event();
        let expression = Expression::parse(&text).unwrap();
        let first = expression.evaluate(&event);
        prop_assert_eq!(&first, &expression.evaluate(&event));
        if let Some(error) = first.error {
            prop_assert!(!expression.describe(&error).is_empty());
        }
    }

    #[test]
    fn logic_keeps_its_laws(a in any_expression(), b in any_expression()) {
        let event = event();
        let holds = |text: String| Expression::parse(&text).unwrap().holds(&event).ok();
        let (a, b) = (format!("({a}) = TRUE"), format!("({b}) = TRUE"));
        let pairs = [
            (holds(format!("NOT (NOT ({a}))")), holds(a.clone())),
            (holds(format!("NOT (({a}) AND ({b}))")), holds(format!("(NOT ({a})) OR (NOT ({b}))"))),
            (holds(format!("NOT (({a}) OR ({b}))")), holds(format!("(NOT ({a})) AND (NOT ({b}))"))),
        ];
        for (left, right) in pairs {
            prop_assert_eq!(left, right, "{} / {}", a, b);
        }
    }
}
