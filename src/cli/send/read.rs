//! Events of a file or of standard input: lines of JSON, or one JSON document.

use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use super::produce::{Flow, Producer};
use crate::event;

/// The longest line of a file of events, in bytes.
const MAX_LINE: usize = 8 * 1024 * 1024;
/// The largest `.json` document, in bytes: it is read as a whole.
const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// Hands over the events of a file, `-` for standard input, until one is at fault or no more are wanted.
///
/// # Errors
/// When the file cannot be read or holds something else than events; the text says where.
pub(super) async fn file(path: &Path, producer: &mut Producer) -> anyhow::Result<()> {
    if path.as_os_str() == "-" {
        return lines(tokio::io::stdin(), "standard input", producer).await;
    }
    let name = path.display().to_string();
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {name}"))?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        document(file, &name, producer).await
    } else {
        lines(file, &name, producer).await
    }
}

/// One JSON event a line; empty lines do not count. Stops at the first line at fault.
async fn lines(input: impl AsyncRead + Unpin, name: &str, producer: &mut Producer) -> anyhow::Result<()> {
    let mut input = BufReader::new(input);
    for number in 1_u64.. {
        let mut line = Vec::new();
        let place = format!("{name}: line {number}");
        let read = (&mut input).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).await;
        if read.with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        if line.len() > MAX_LINE {
            bail!("{place}: longer than {MAX_LINE} bytes");
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let hint = if number == 1 {
            "; expected one JSON event a line (a document over several lines goes in a .json file)"
        } else {
            ""
        };
        let event = event::json::decode(&Bytes::copy_from_slice(text))
            .map_err(|error| anyhow::anyhow!("{place}: {error}{hint}"))?;
        if producer.push(event, &place).await? == Flow::Enough {
            break;
        }
    }
    Ok(())
}

/// One JSON document: an event, or an array of events of which none is sent when one is at fault.
async fn document(input: impl AsyncRead + Unpin, name: &str, producer: &mut Producer) -> anyhow::Result<()> {
    let mut document = Vec::new();
    input
        .take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut document)
        .await
        .with_context(|| format!("cannot read {name}"))?;
    if document.len() > MAX_DOCUMENT {
        bail!("{name}: larger than {MAX_DOCUMENT} bytes; send many events as lines (.ndjson)");
    }
    let is_array = document.trim_ascii_start().first() == Some(&b'[');
    let document = Bytes::from(document);
    if !is_array {
        let event = event::json::decode(&document).with_context(|| name.to_owned())?;
        producer.push(event, name).await?;
        return Ok(());
    }
    let events = event::json::decode_batch(&document).with_context(|| name.to_owned())?;
    for (index, event) in events.into_iter().enumerate() {
        if producer.push(event, &format!("{name}: event {index}")).await? == Flow::Enough {
            break;
        }
    }
    Ok(())
}
