//! The contexts of the NATS CLI (ADR-21): named connections in files that people have already. Read, never written; a setting
//! that we cannot honour is refused by its name, because a connection that ignores one is another connection.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::connect::{self, Settings, SettingsError};
use super::secret::Secret;

/// Where a context without a URL leads, as for the NATS CLI.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
/// The largest context file, in bytes; a real one has some hundreds.
const MAX_FILE: u64 = 1024 * 1024;

/// Fields that say nothing about a connection.
const OF_NO_ACCOUNT: [&str; 3] = ["name", "description", "color_scheme"];

/// The contexts of one person.
#[derive(Debug, Clone)]
pub struct Contexts {
    /// The directory `nats` in the one for configurations.
    folder: PathBuf,
    /// What `~` stands for.
    home: Option<PathBuf>,
}

/// Why a context cannot be used. No text holds a value of the file.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error("there is no NATS context '{name}' in {}; {known}", folder.display())]
    Unknown { name: String, folder: PathBuf, known: String },
    #[error("'{0}' is no name of a NATS context, expected one without '/' and '..'")]
    Name(String),
    #[error("cannot read {}: {error}", path.display())]
    File { path: PathBuf, error: std::io::Error },
    #[error("NATS context {}: {fault}", path.display())]
    Content { path: PathBuf, fault: String },
}

impl Contexts {
    /// Those in `config`, the directory for configurations (`$XDG_CONFIG_HOME`, else `~/.config`).
    pub fn of(config: &Path, home: Option<PathBuf>) -> Self {
        Self { folder: config.join("nats"), home }
    }

    /// The context that `nats context select` has chosen, if any.
    ///
    /// # Errors
    /// When the file that says so is there and cannot be read.
    pub fn selected(&self) -> Result<Option<String>, ContextError> {
        let path = self.folder.join("context.txt");
        match read(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContextError::File { path, error }),
        }
    }

    /// The settings of a context.
    ///
    /// # Errors
    /// When there is no such context, or it says something that we cannot make sense of or cannot honour.
    pub fn load(&self, name: &str) -> Result<Settings, ContextError> {
        if name.is_empty() || name.contains('/') || name.contains("..") {
            return Err(ContextError::Name(name.to_owned()));
        }
        let path = self.folder.join("context").join(format!("{name}.json"));
        let text = match read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(self.unknown(name)),
            Err(error) => return Err(ContextError::File { path, error }),
            Ok(text) => text,
        };
        settings(&text, self.home.as_deref()).map_err(|fault| ContextError::Content { path, fault })
    }

    fn unknown(&self, name: &str) -> ContextError {
        let folder = self.folder.join("context");
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".json").map(str::to_owned)).collect();
        names.sort();
        let known = if names.is_empty() { "there are none".to_owned() } else { format!("known: {}", names.join(", ")) };
        ContextError::Unknown { name: name.to_owned(), folder, known }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    std::fs::read_to_string(path)
}

/// What a context file says. The error says which line or field is at fault and what was expected.
fn settings(text: &str, home: Option<&Path>) -> Result<Settings, String> {
    // As a value first: what serde says of a wrong type would show the value.
    let value: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    let Value::Object(fields) = value else { return Err("expected a JSON object".to_owned()) };
    let mut fields = Fields { fields, home };
    let urls = fields.text("url")?.unwrap_or_else(|| DEFAULT_URL.to_owned());
    let mut settings = Settings {
        urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
        token: fields.text("token")?.map(Secret::Text),
        ca_file: fields.file("ca")?,
        client_certificate: fields.file("cert")?,
        client_key: fields.file("key")?,
        inbox_prefix: fields.text("inbox_prefix")?,
        tls_first: fields.switch("tls_first")?,
        ..Settings::default()
    };
    for url in &settings.urls {
        connect::address(url).map_err(|error| match error {
            SettingsError::Url { url, error } => format!("field 'url': '{url}': {error}"),
            error => error.to_string(),
        })?;
    }
    if settings.client_certificate.is_some() != settings.client_key.is_some() {
        return Err("fields 'cert' and 'key' go together, expected both or neither".to_owned());
    }
    let (user, password) = (fields.text("user")?, fields.text("password")?);
    let (creds, nkey) = (fields.file("creds")?, fields.file("nkey")?);
    // One of them, in the order of the NATS CLI.
    if let Some(user) = user {
        settings.user = Some(user);
        settings.password = Some(Secret::Text(password.unwrap_or_default()));
    } else if creds.is_some() {
        settings.credentials_file = creds;
    } else {
        settings.nkey_file = nkey;
    }
    fields.end()?;
    Ok(settings)
}

/// The fields of a context that nobody has taken yet.
struct Fields<'a> {
    fields: Map<String, Value>,
    home: Option<&'a Path>,
}

impl Fields<'_> {
    /// A text, `None` when it is empty or absent.
    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(_) => Err(format!("field '{name}': expected text")),
        }
    }

    fn switch(&mut self, name: &str) -> Result<bool, String> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(format!("field '{name}': expected true or false")),
        }
    }

    /// A file, which must be readable.
    fn file(&mut self, name: &str) -> Result<Option<PathBuf>, String> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if text.contains("://") || text.contains('$') {
            let hint = "expected the path of a file, without variables";
            return Err(format!("field '{name}': knats cannot look it up, {hint}"));
        }
        let path = match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => PathBuf::from(text),
        };
        match std::fs::File::open(&path) {
            Ok(_) => Ok(Some(path)),
            Err(error) => Err(format!("field '{name}': cannot read {}: {error}", path.display())),
        }
    }

    /// Refuses what is left and is not empty.
    fn end(self) -> Result<(), String> {
        let is_empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Bool(true) | Value::Number(_) | Value::Object(_) => false,
        };
        let unknown =
            self.fields.iter().find(|(name, value)| !OF_NO_ACCOUNT.contains(&name.as_str()) && !is_empty(value));
        match unknown {
            Some((name, _)) => Err(format!("field '{name}': knats cannot honour it; say it with --nats-... flags")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_nats_cli_writes_is_read() {
        let text = r#"{"description": "x", "url": "nats://a:1, tls://b:2", "token": "", "user": "ann", "password": "p",
            "creds": "", "nkey": "", "cert": "", "key": "", "ca": "", "nsc": "", "jetstream_domain": "",
            "jetstream_api_prefix": "", "jetstream_event_prefix": "", "inbox_prefix": "_INBOX_ann", "user_jwt": "",
            "color_scheme": "red", "tls_first": true, "windows_ca_certs_match": null}"#;
        let expected = Settings {
            urls: vec!["nats://a:1".into(), "tls://b:2".into()],
            user: Some("ann".into()),
            password: Some(Secret::Text("p".into())),
            inbox_prefix: Some("_INBOX_ann".into()),
            tls_first: true,
            ..Settings::default()
        };
        assert_eq!(settings(text, None), Ok(expected));
        assert_eq!(settings("{}", None).map(|settings| settings.urls), Ok(vec![DEFAULT_URL.to_owned()]));
    }

    #[test]
    fn a_fault_is_named_and_no_value_is_shown() {
        for (text, names) in [
            ("{\n  \"password\": \"hush\",\n}", "line 3 column 1"),
            ("[\"hush\"]", "expected a JSON object"),
            (r#"{"password": 4711, "user": "ann"}"#, "field 'password': expected text"),
            (r#"{"tls_first": "hush"}"#, "field 'tls_first': expected true or false"),
            (r#"{"jetstream_domain": "hub"}"#, "field 'jetstream_domain'"),
            (r#"{"user_jwt": "hush"}"#, "field 'user_jwt'"),
            (r#"{"nsc": "nsc://o/a/u"}"#, "field 'nsc'"),
            (r#"{"creds": "op://hush"}"#, "field 'creds'"),
            (r#"{"creds": "$HOME/hush"}"#, "field 'creds'"),
            (r#"{"ca": "/nowhere/ca.pem"}"#, "field 'ca': cannot read /nowhere/ca.pem"),
            (r#"{"url": "nats://ann:hush@host:port"}"#, "field 'url'"),
            (r#"{"something_new": 1}"#, "field 'something_new'"),
        ] {
            let fault = settings(text, None).err().unwrap_or_default();
            assert!(fault.contains(names), "{text}: {fault}");
            assert!(!fault.contains("hush") && !fault.contains("4711"), "{text}: {fault}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let contexts = Contexts::of(Path::new("/nowhere"), None);
        for name in ["", "../x", "a/b"] {
            assert!(matches!(contexts.load(name), Err(ContextError::Name(_))), "{name}");
        }
        assert!(matches!(contexts.load("x"), Err(ContextError::Unknown { .. })));
        assert!(matches!(contexts.selected(), Ok(None)));
    }
}
