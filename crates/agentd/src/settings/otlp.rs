//! `[otlp]` of the configuration file: where spans of model calls go.
//!
//! Invariants: what can be seen of it without reading the file of headers is checked here; that file is never read by
//! agentd.

use std::path::PathBuf;

use aaos_runtime::{KeyFile, SpanExport, SpanWords};
use anyhow::{Result, bail};
use serde::Deserialize;

/// The table, as written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OtlpEntry {
    /// The collector; its spans are posted to `/v1/traces` below it.
    pub(crate) endpoint: String,
    /// A file of `Name: value` lines.
    pub(crate) headers_file: Option<PathBuf>,
    /// Whether spans tell what was said.
    #[serde(default)]
    pub(crate) content: bool,
}

/// Where spans go, and what they tell.
pub(super) fn export(entry: &OtlpEntry) -> Result<SpanExport> {
    if let Err(why) = check_url(&entry.endpoint) {
        bail!(
            "`endpoint` of [otlp] in the configuration file {why}; write the URL of the collector without /v1/traces, as in \
             http://127.0.0.1:4318"
        );
    }
    if let Some(path) = entry.headers_file.as_deref().filter(|path| !path.is_absolute()) {
        bail!(
            "`headers_file` of [otlp] in the configuration file is {}; name it from the root, with a leading /",
            path.display()
        );
    }
    let endpoint = entry.endpoint.trim_end_matches('/').to_owned();
    let words = if entry.content { SpanWords::Told } else { SpanWords::LeftOut };
    let headers = entry.headers_file.clone().map(KeyFile::of_operator);
    Ok(SpanExport { endpoint, headers, words, version: env!("CARGO_PKG_VERSION").to_owned() })
}

/// What can be said of a URL without a parser of URLs, which the gateway has. It is not quoted: somebody may have written
/// credentials into it.
fn check_url(url: &str) -> Result<(), &'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let rest = rest.ok_or("begins with neither https:// nor http://")?.trim_end_matches('/');
    if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("holds characters that no URL holds");
    }
    if rest.contains('@') {
        return Err("holds credentials, which belong into `headers_file`");
    }
    if rest.contains(['?', '#']) {
        return Err("holds a query or a fragment");
    }
    if rest.ends_with("/v1/traces") {
        return Err("ends in /v1/traces, which aaOS adds");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.is_empty() {
        return Err("names no host");
    }
    match port.map(str::parse::<u16>) {
        Some(Ok(0) | Err(_)) => Err("has a port that is no number from 1 to 65535"),
        Some(Ok(_)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{OtlpEntry, export};
    use aaos_runtime::SpanWords;

    fn read(text: &str) -> Result<aaos_runtime::SpanExport, String> {
        let entry: OtlpEntry = toml::from_str(text).map_err(|error| error.to_string())?;
        export(&entry).map_err(|error| error.to_string())
    }

    #[test]
    fn a_collector_is_configured_and_nothing_is_told_of_what_was_said_unless_asked_for() {
        for endpoint in ["http://127.0.0.1:4318/", "https://o.example/otlp", "http://[::1]:1", "http://[::1]"]
        {
            let told = read(&format!("endpoint = {endpoint:?}")).expect(endpoint);
            assert_eq!(
                (told.endpoint.as_str(), told.words),
                (endpoint.trim_end_matches('/'), SpanWords::LeftOut)
            );
        }
        let told = read("endpoint = \"http://h\"\ncontent = true").expect("good");
        assert_eq!(told.words, SpanWords::Told);
    }

    #[test]
    fn what_is_wrong_is_refused_with_what_to_do_and_never_quoted() {
        for (endpoint, said) in [
            ("ftp://s3cret", "neither https:// nor http://"),
            ("http://u:s3cret@h", "belong into `headers_file`"),
            ("http://h/?key=s3cret", "a query"),
            ("http://h/s3 cret", "characters that no URL holds"),
            ("http://h/v1/traces", "which aaOS adds"),
            ("http://h:0", "a port"),
            ("http://h:s3cret", "a port"),
            ("http://", "names no host"),
            ("http://:1", "names no host"),
        ] {
            let error = read(&format!("endpoint = {endpoint:?}")).expect_err(endpoint);
            assert!(error.contains(said) && error.contains("as in http://127.0.0.1:4318"), "{error}");
            assert!(!error.contains("s3"), "{error}");
        }
        for (text, said) in [
            ("content = true", "missing field `endpoint`"),
            ("endpoint = \"http://h\"\nheaders = 1", "unknown field `headers`"),
            ("endpoint = \"http://h\"\nheaders_file = \"h\"", "a leading /"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{error}");
        }
    }
}
