//! The layout of Knative's event display.

use std::fmt::Write as _;

use base64::Engine as _;
use serde::de::IgnoredAny;

use crate::event::Event;

/// In the order in which they are shown; all others are extensions.
const CONTEXT_ATTRIBUTES: [&str; 9] =
    ["specversion", "type", "source", "subject", "id", "time", "schemaurl", "dataschema", "datacontenttype"];

/// The first line of every block.
pub(crate) const HEADLINE: &str = "☁️  cloudevents.Event";

/// The whole block of one event, with the line end that closes it.
pub(crate) fn block(event: &Event) -> String {
    let mut block = format!("{HEADLINE}\nContext Attributes,\n");
    for name in CONTEXT_ATTRIBUTES {
        if let Some(value) = event.attribute(name) {
            line(&mut block, name, value);
        }
    }
    let mut extensions: Vec<(&str, &str)> =
        event.attributes().filter(|(name, _)| !CONTEXT_ATTRIBUTES.contains(name)).collect();
    extensions.sort_unstable();
    if !extensions.is_empty() {
        block.push_str("Extensions,\n");
    }
    for (name, value) in extensions {
        line(&mut block, name, value);
    }
    if let Some(data) = event.data() {
        show_data(&mut block, event.datacontenttype(), data);
    }
    block
}

fn line(block: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(block, "  {name}: {value}");
}

fn show_data(block: &mut String, content_type: Option<&str>, data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        let _ = writeln!(block, "Data (binary),\n  {}", base64::engine::general_purpose::STANDARD.encode(data));
        return;
    };
    block.push_str("Data,\n  ");
    if content_type.is_some_and(super::super::is_json) && serde_json::from_str::<IgnoredAny>(text).is_ok() {
        indent(block, text);
    } else {
        block.push_str(text);
    }
    block.push('\n');
}

/// Lays out valid JSON over lines, two spaces a level and two before every line. Only white space between tokens changes:
/// numbers, names and escapes keep their text.
fn indent(block: &mut String, json: &str) {
    let mut depth = 1_usize;
    let mut in_string = false;
    let mut escaped = false;
    let mut just_opened = false;
    let break_line = |block: &mut String, depth: usize| {
        block.push('\n');
        block.extend(std::iter::repeat_n("  ", depth));
    };
    for c in json.chars() {
        if in_string {
            block.push(c);
            in_string = escaped || c != '"';
            escaped = c == '\\' && !escaped;
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(c, '}' | ']');
        if closes {
            depth -= 1;
        }
        if just_opened != closes && (just_opened || closes) {
            break_line(block, depth);
        }
        just_opened = matches!(c, '{' | '[');
        block.push(c);
        match c {
            '{' | '[' => depth += 1,
            ',' => break_line(block, depth),
            ':' => block.push(' '),
            '"' => in_string = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use bytes::Bytes;

    use super::*;
    use crate::event::{Builder, SpecVersion};

    fn event(attributes: &[(&str, &str)], data: Option<&[u8]>) -> Event {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in attributes {
            builder.attribute(name, value).unwrap();
        }
        if let Some(data) = data {
            builder.data(Bytes::copy_from_slice(data));
        }
        builder.build().unwrap()
    }

    const REQUIRED: [(&str, &str); 3] = [("id", "1"), ("source", "/s"), ("type", "t")];

    #[test]
    fn an_event_is_shown_as_event_display_shows_it() {
        let event = event(
            &[
                ("id", "2"),
                ("source", "https://knative.dev/eventing/cmd/heartbeats/#default/heart"),
                ("type", "dev.knative.eventing.samples.heartbeat"),
                ("time", "2019-10-18T15:23:20.809775386Z"),
                ("datacontenttype", "application/json"),
                ("the", "42"),
                ("beats", "true"),
                ("dataschema", "https://example.com/schema"),
                ("subject", "heart"),
            ],
            Some(br#"{"id":2,"label":"","list":[1.10,{}],"none":[]}"#),
        );
        let expected = r#"☁️  cloudevents.Event
Context Attributes,
  specversion: 1.0
  type: dev.knative.eventing.samples.heartbeat
  source: https://knative.dev/eventing/cmd/heartbeats/#default/heart
  subject: heart
  id: 2
  time: 2019-10-18T15:23:20.809775386Z
  dataschema: https://example.com/schema
  datacontenttype: application/json
Extensions,
  beats: true
  the: 42
Data,
  {
    "id": 2,
    "label": "",
    "list": [
      1.10,
      {}
    ],
    "none": []
  }
"#;
        assert_eq!(block(&event), expected);
    }

    #[test]
    fn an_event_without_more_is_shown_without_more() {
        assert_eq!(
            block(&event(&REQUIRED, None)),
            "☁️  cloudevents.Event\nContext Attributes,\n  specversion: 1.0\n  type: t\n  source: /s\n  id: 1\n"
        );
    }

    #[test]
    fn data_is_shown_as_its_type_asks_for() {
        for (content_type, data, expected) in [
            ("application/json", &br#""106.53000000""#[..], "Data,\n  \"106.53000000\"\n"),
            ("application/vnd.x+json; charset=utf-8", b"[ 1 , 2 ]", "Data,\n  [\n    1,\n    2\n  ]\n"),
            ("application/json", br#"{"a":"\"{[,:\\"}"#, "Data,\n  {\n    \"a\": \"\\\"{[,:\\\\\"\n  }\n"),
            ("application/json", b"{not json", "Data,\n  {not json\n"),
            ("application/json", b" { } ", "Data,\n  {}\n"),
            ("text/plain", b"{\"a\":1}", "Data,\n  {\"a\":1}\n"),
            ("application/octet-stream", b"\xff\x00", "Data (binary),\n  /wA=\n"),
        ] {
            let mut attributes = REQUIRED.to_vec();
            attributes.push(("datacontenttype", content_type));
            let shown = block(&event(&attributes, Some(data)));
            assert!(shown.ends_with(expected), "{content_type}: {shown}");
        }
    }
}
