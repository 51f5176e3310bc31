//! Writing the JSON format.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::scan::escaped;
use crate::event::text::has_none;
use crate::event::{Event, SpecVersion, media_type};

/// One JSON object, members in the order specversion, id, source, type, other attributes, data.
pub fn encode(event: &Event) -> Bytes {
    let mut out = Vec::with_capacity(capacity(event));
    write_event(&mut out, event);
    out.into()
}

/// One JSON array of such objects.
pub fn encode_batch(events: &[&Event]) -> Bytes {
    let mut out = Vec::with_capacity(events.iter().map(|event| capacity(event)).sum::<usize>() + 2);
    out.push(b'[');
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_event(&mut out, event);
    }
    out.push(b']');
    out.into()
}

/// Room for most events; data that needs escapes or base64 makes it grow.
fn capacity(event: &Event) -> usize {
    const PUNCTUATION: usize = 6;
    let attributes: usize = event.attributes().map(|(name, value)| name.len() + value.len() + PUNCTUATION).sum();
    attributes + event.data().map_or(0, Bytes::len) + "{\"specversion\":\"1.0\",\"data_base64\":\"\"}".len()
}

fn write_event(out: &mut Vec<u8>, event: &Event) {
    let data = event.data().map(|data| (data, form(event, data)));
    // In 0.3 this attribute says how `data` is written here, so it is written with the data.
    let encoding_comes_with_data = data.is_some() && event.version() == SpecVersion::V03;
    out.extend_from_slice(b"{\"specversion\":");
    write_string(out, event.version().as_str());
    for name in ["id", "source", "type"] {
        write_attribute(out, event, name, event.required(name));
    }
    for (name, value) in event.attributes() {
        let written = match name {
            "id" | "source" | "type" => true,
            "datacontentencoding" => encoding_comes_with_data,
            _ => false,
        };
        if !written {
            write_attribute(out, event, name, value);
        }
    }
    if let Some((data, form)) = data {
        write_data(out, event.version(), data, form);
    }
    out.push(b'}');
}

fn write_attribute(out: &mut Vec<u8>, event: &Event, name: &str, value: &str) {
    // No name has anything to escape.
    for part in [",\"", name, "\":"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_string(out, &event.uri_text(name, value));
}

/// How data bytes are written in JSON.
#[derive(Clone, Copy)]
enum Form<'a> {
    /// They are JSON themselves.
    Json,
    String(&'a str),
    Base64,
    /// 0.3: they came as base64 text in binary mode, and that is what `datacontentencoding` says of them.
    AlreadyBase64(&'a str),
}

fn form<'a>(event: &Event, data: &'a Bytes) -> Form<'a> {
    let Ok(text) = std::str::from_utf8(data) else {
        return Form::Base64;
    };
    if event.version() == SpecVersion::V03 && event.attribute("datacontentencoding").is_some() {
        return if STANDARD.decode(text).is_ok() { Form::AlreadyBase64(text) } else { Form::Base64 };
    }
    match event.datacontenttype() {
        None => Form::Base64,
        Some(content_type) if !media_type::is_json(content_type) => Form::String(text),
        Some(_) if serde_json::from_str::<&RawValue>(text).is_ok() => Form::Json,
        Some(_) => Form::Base64,
    }
}

fn write_data(out: &mut Vec<u8>, version: SpecVersion, data: &Bytes, form: Form<'_>) {
    let encoded = |version| match version {
        SpecVersion::V10 => ",\"data_base64\":",
        SpecVersion::V03 => ",\"datacontentencoding\":\"base64\",\"data\":",
    };
    let member = match form {
        Form::Json | Form::String(_) => ",\"data\":",
        Form::Base64 | Form::AlreadyBase64(_) => encoded(version),
    };
    out.extend_from_slice(member.as_bytes());
    match form {
        Form::Json => out.extend_from_slice(data),
        Form::String(text) | Form::AlreadyBase64(text) => write_string(out, text),
        Form::Base64 => write_string(out, &STANDARD.encode(data)),
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    if has_none(text, escaped) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        return out.push(b'"');
    }
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
