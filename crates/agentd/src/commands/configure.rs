//! `configure`: keeps a provider's key in a file, and names a provider in the configuration file.
//!
//! Invariants: a key is written to a file that its owner alone may read, whole or not at all, and is shown nowhere; what
//! a person types is not echoed; a configuration file is only ever added to, and only if it is valid afterwards.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aaos_core::limits::MAX_KEY_BYTES;
use aaos_core::name::{ModelName, ProviderName};
use anyhow::{Context, Result, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::ConfigureArgs;
use crate::exit::{Exit, UsageError};
use crate::render::{Screen, Tone};
use crate::settings::configuration::{self, Configuration};
use crate::settings::{Keys, is_key_variable, reserved};

/// What a person is asked where no provider was named.
const WHICH: &str = "provider (deepseek, anthropic, openai, or a name for another): ";
/// Ctrl-C, where it makes no signal.
const INTERRUPT: u8 = 3;

/// `configure`.
pub(crate) fn configure(
    configuration: &Configuration,
    args: &ConfigureArgs,
    keys: &Keys,
    screen: Screen,
) -> Result<Exit> {
    let name = provider_name(args)?;
    let entry = new_entry(configuration, args, keys, &name)?;
    let Some(key) = key(args, keys, &name)? else {
        let Some(entry) = entry else { bail!("no key was given, so nothing was changed") };
        entry.write(screen)?;
        let how = format!("`agentd configure {name} --key-stdin`, or --key-from-env VAR");
        screen.note(Tone::Warn, &format!("no key was taken; if {name} needs one, give it with {how}"));
        return Ok(Exit::Done);
    };
    check(&key)?;
    let place = configuration.key_place().context("no place for keys: set HOME or XDG_CONFIG_HOME")?;
    let path = store(&place, &name, &key)?;
    screen.line(Tone::Plain, &format!("the key of {name} is in {} (mode 0600)", path.display()))?;
    if let Some(entry) = entry {
        entry.write(screen)?;
    }
    if let Some(var) = configuration.key_variables(name.as_str()).find(|var| keys.contains_key(*var)) {
        screen.note(Tone::Warn, &format!("while {var} is set, the key in it stands over the file"));
    }
    screen.note(Tone::Plain, "a daemon that runs takes it at its next start");
    Ok(Exit::Done)
}

fn provider_name(args: &ConfigureArgs) -> Result<ProviderName> {
    let named = match &args.provider {
        Some(named) => named.clone(),
        None if io::stdin().is_terminal() && io::stderr().is_terminal() => ask(WHICH)?,
        None => return Err(UsageError("name a provider: agentd configure PROVIDER".to_owned()).into()),
    };
    let usage = |why: String| UsageError(format!("{named:?} cannot be configured: {why}"));
    let name = ProviderName::parse(&named).map_err(|error| usage(error.to_string()))?;
    if let Some(why) = reserved(&named) {
        return Err(usage(format!("it is {why} and needs no key")).into());
    }
    Ok(name)
}

/// The key as it was asked to be had; nothing where a server is to be used without one.
fn key(args: &ConfigureArgs, keys: &Keys, name: &ProviderName) -> Result<Option<String>> {
    if let Some(var) = &args.key_from_env {
        if !is_key_variable(var) {
            return Err(UsageError(format!(
                "{var:?} is no variable of a key; its name ends in _KEY or _TOKEN"
            ))
            .into());
        }
        let key = keys.get(var).with_context(|| format!("{var} is not set, or empty"))?;
        return Ok(Some(key.trim().to_owned()));
    }
    if args.key_stdin {
        let mut text = String::new();
        io::stdin()
            .take(MAX_KEY_BYTES + 2)
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(Some(text.trim().to_owned()));
    }
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        let _hidden = Hidden::start()?;
        let typed = ask(&format!("key of {name} (it is not shown): "))?;
        return Ok(Some(typed).filter(|typed| !typed.is_empty()));
    }
    if args.base_url.is_some() {
        return Ok(None);
    }
    let how = "there is no terminal to ask at; give the key with --key-stdin or --key-from-env VAR";
    Err(UsageError(how.to_owned()).into())
}

/// Whether this can be a key: what stands in a header, and no two things.
fn check(key: &str) -> Result<()> {
    if key.is_empty() {
        bail!("the key is empty, so nothing was changed");
    }
    if key.len() as u64 > MAX_KEY_BYTES {
        bail!("the key is longer than {MAX_KEY_BYTES} bytes; was something else pasted?");
    }
    if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        bail!("the key holds blanks or characters that no key has; was it pasted whole, and alone?");
    }
    Ok(())
}

/// Asks a person for one line.
fn ask(question: &str) -> Result<String> {
    let mut shown = io::stderr().lock();
    write!(shown, "{question}").and_then(|()| shown.flush()).context("cannot ask")?;
    let (mut line, mut byte) = (Vec::new(), [0]);
    let mut typed = io::stdin().lock();
    while line.len() as u64 <= MAX_KEY_BYTES && typed.read(&mut byte).context("cannot read the answer")? == 1
    {
        match byte[0] {
            b'\n' => break,
            INTERRUPT => bail!("it was broken off, and nothing was changed"),
            other => line.push(other),
        }
    }
    Ok(String::from_utf8(line).context("the answer is not UTF-8")?.trim().to_owned())
}

/// A terminal that does not show what is typed, until this is dropped. Ctrl-C makes no signal meanwhile, which would
/// leave it so.
struct Hidden(Termios);

impl Hidden {
    fn start() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("cannot ask the terminal how it is set")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)
            .context("cannot keep the terminal from showing")?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(io::stdin(), OptionalActions::Now, &self.0) {
            tracing::warn!(%error, "the terminal could not be set back; run `stty sane`");
        }
    }
}

/// Writes the key to the file of its provider's name.
fn store(place: &Path, name: &ProviderName, key: &str) -> Result<PathBuf> {
    private_directory(place)?;
    let path = place.join(name.as_str());
    replace(&path, &format!("{key}\n"), 0o600)?;
    Ok(path)
}

fn private_directory(path: &Path) -> Result<()> {
    let shown = path.display();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make the directory {shown}"))?;
    let found = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own || found.mode() & 0o022 != 0 {
        bail!("others may change what is in {shown}; run `chown {own} {shown} && chmod 700 {shown}`");
    }
    Ok(())
}

/// Puts a whole file in the place of whatever was there.
fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let directory = path.parent().with_context(failed)?;
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().with_context(failed)?);
    name.push(format!(".{}", std::process::id()));
    let new = directory.join(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    let written = write();
    if written.is_err() && new.exists() {
        std::fs::remove_file(&new).with_context(failed)?;
    }
    written.with_context(failed)
}

/// What is to be added to a configuration file.
struct NewEntry {
    path: PathBuf,
    text: String,
    mode: u32,
}

impl NewEntry {
    fn write(&self, screen: Screen) -> Result<()> {
        if let Some(directory) = self.path.parent() {
            private_directory(directory)?;
        }
        replace(&self.path, &self.text, self.mode)?;
        Ok(screen.line(Tone::Plain, &format!("the provider is in {}", self.path.display()))?)
    }
}

/// The configuration file with this provider, where there is something to say of it that is not there.
fn new_entry(
    configuration: &Configuration,
    args: &ConfigureArgs,
    keys: &Keys,
    name: &ProviderName,
) -> Result<Option<NewEntry>> {
    let is_there = configuration.names_provider(name.as_str());
    if args.base_url.is_none() && args.model.is_none() {
        let usage = || UsageError(format!("aaOS does not know {name}; say where it is with --base-url URL"));
        if !is_there && !configuration::is_known(name.as_str()) {
            return Err(usage().into());
        }
        if let Some(path) = configuration.key_file(name.as_str()) {
            let path = path.display();
            bail!(
                "the configuration file says that the key of {name} is in {path}; put it there, or take out `key_file`"
            );
        }
        configuration.check_key(name.as_str(), keys)?;
        return Ok(None);
    }
    let (path, text, mode) = configuration.of_user()?;
    if is_there {
        bail!("{} has [[providers]] {name:?} already; change it there", path.display());
    }
    let mut text = text;
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&entry_text(args, name)?);
    configuration.check_text(&path, &text, keys)?;
    Ok(Some(NewEntry { path, text, mode }))
}

fn entry_text(args: &ConfigureArgs, name: &ProviderName) -> Result<String> {
    let mut lines = format!("\n[[providers]]\nname = \"{name}\"\n");
    if !configuration::is_known(name.as_str()) {
        lines.push_str("format = \"openai\"\n");
    }
    if let Some(url) = &args.base_url {
        let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        let is_http = url.starts_with("https://") || url.starts_with("http://");
        if !is_plain || !is_http {
            return Err(
                UsageError(format!("{url:?} is no base URL; it begins with https:// or http://")).into()
            );
        }
        lines.push_str(&format!("base_url = \"{url}\"\n"));
    }
    if let Some(model) = &args.model {
        let model = ModelName::parse(model).map_err(|error| UsageError(error.to_string()))?;
        lines.push_str(&format!("models = [\"{model}\"]\n"));
    } else if !configuration::is_known(name.as_str()) {
        let how =
            format!("aaOS knows no models of {name}; say with --model M what `smart` and `fast` mean there");
        return Err(UsageError(how).into());
    }
    Ok(lines)
}

/// The value of `--key-from-env`, before flags are parsed: keys leave the environment first of all.
pub(crate) fn wanted_variable(arguments: impl Iterator<Item = String>) -> Option<String> {
    let mut arguments = arguments.skip_while(|one| one != "configure").skip(1);
    while let Some(one) = arguments.next() {
        if one == "--key-from-env" {
            return arguments.next();
        }
        if let Some(var) = one.strip_prefix("--key-from-env=") {
            return Some(var.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{check, wanted_variable};

    #[test]
    fn only_what_can_be_a_key_is_kept() {
        assert!(check("sk-0123_abc.DEF/+=").is_ok());
        for (key, said) in
            [("", "empty"), ("two words", "blanks"), ("a\nb", "blanks"), ("sk-\u{e9}", "characters")]
        {
            let error = check(key).expect_err(key).to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(check(&"k".repeat(4_096)).is_ok());
        assert!(check(&"k".repeat(4_097)).is_err());
    }

    #[test]
    fn the_variable_is_known_before_flags_are_parsed() {
        let wanted = |line: &str| wanted_variable(line.split(' ').map(str::to_owned));
        assert_eq!(wanted("agentd configure x --key-from-env A_KEY").as_deref(), Some("A_KEY"));
        assert_eq!(wanted("agentd --state-dir d configure --key-from-env=A_KEY x").as_deref(), Some("A_KEY"));
        assert_eq!(wanted("agentd run --key-from-env A_KEY"), None);
        assert_eq!(wanted("agentd configure --key-from-env"), None);
    }
}
