//! What is to be tried: words of the command line, and what a provider takes from the caller's environment.
//!
//! Invariant: of the environment nothing reaches the daemon but what configures providers.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::goal::Goal;

/// How long one run may take, unless told otherwise.
const SECONDS: u64 = 180;
/// The planner, which reads nothing of the environment.
const BUILTIN: &str = "builtin";
pub(crate) const USAGE: &str = "usage: cargo xtask eval [--model GGUF[=NAME]]… [--provider NAME]… [--goals A,B] [--seconds N] \
                     [--json] [--write] | --list [--write]";
/// What configures a provider, beside the configuration file.
const SETTINGS: [&str; 7] = [
    "DEEPSEEK_API_KEY",
    "DEEPSEEK_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "AAOS_MODEL",
];

/// Who thinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Weights, which are added to the daemon's own state.
    Local {
        /// The file.
        file: PathBuf,
        /// What the model is called.
        name: String,
    },
    /// A provider, as the caller has configured it.
    Provider(String),
}

/// What one evaluation does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) sources: Vec<Source>,
    /// Names of goals; all where there is none.
    goals: Vec<String>,
    pub(crate) seconds: u64,
    pub(crate) json: bool,
    pub(crate) write: bool,
    pub(crate) list: bool,
    pub(crate) help: bool,
}

impl Wish {
    pub(crate) fn parse(words: &[String]) -> Result<Self> {
        let mut wish = Self { seconds: SECONDS, ..Self::default() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} takes a value\n{USAGE}"));
            match word.as_str() {
                "--model" => wish.sources.push(Source::local(value()?)?),
                "--provider" => wish.sources.push(Source::Provider(value()?.clone())),
                "--goals" => wish.goals = value()?.split(',').map(str::to_owned).collect(),
                "--seconds" => {
                    let text = value()?;
                    wish.seconds =
                        text.parse().with_context(|| format!("--seconds takes a number, not {text:?}"))?;
                }
                "--json" => wish.json = true,
                "--write" => wish.write = true,
                "--list" => wish.list = true,
                "--help" | "-h" => return Ok(Self { help: true, ..wish }),
                other => bail!("unknown argument {other:?}\n{USAGE}"),
            }
        }
        ensure!(wish.seconds > 0, "a goal takes some time");
        ensure!(wish.list == wish.sources.is_empty(), "name a model, a provider, or --list\n{USAGE}");
        ensure!(
            !wish.write || wish.goals.is_empty(),
            "the page holds results of all goals: --goals goes without --write"
        );
        Ok(wish)
    }

    /// The goals that are named, or all.
    pub(crate) fn choose<'g>(&self, all: &'g [Goal]) -> Result<Vec<&'g Goal>> {
        if self.goals.is_empty() {
            return Ok(all.iter().collect());
        }
        let find = |name: &String| {
            let found = all.iter().find(|goal| goal.name == *name);
            found.with_context(|| format!("there is no goal {name:?}; `cargo xtask eval --list` shows them"))
        };
        self.goals.iter().map(find).collect()
    }
}

impl Source {
    /// `FILE` or `FILE=NAME`.
    fn local(text: &str) -> Result<Self> {
        let named = text.rsplit_once('=').filter(|(_, name)| !name.contains('/'));
        let (file, name) = match named {
            Some((file, name)) => (file, name.to_owned()),
            None => (text, stem(Path::new(text))?),
        };
        ensure!(!name.is_empty(), "{text:?} names no model");
        Ok(Self::Local { file: file.into(), name })
    }

    /// The provider's name.
    pub(crate) fn provider(&self) -> &str {
        match self {
            Self::Local { .. } => "local",
            Self::Provider(name) => name,
        }
    }

    /// The name under which results are shown.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Local { name, .. } => name.clone(),
            Self::Provider(provider) => match variable("AAOS_MODEL").filter(|_| provider != BUILTIN) {
                Some(model) => format!("{provider}/{}", model.to_string_lossy()),
                None => provider.clone(),
            },
        }
    }
}

fn stem(path: &Path) -> Result<String> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    Ok(stem.with_context(|| format!("{} has no name", path.display()))?.to_lowercase())
}

/// What the daemon gets of the caller's environment for this provider.
pub(crate) fn inherited(provider: &str) -> impl Iterator<Item = (&'static str, OsString)> {
    let of_caller = provider != BUILTIN;
    let settings = SETTINGS.iter().filter_map(|name| Some((*name, variable(name)?)));
    let home = variable("HOME").map(|home| PathBuf::from(home).join(".config").into_os_string());
    let config = variable("XDG_CONFIG_HOME").or(home).map(|folder| ("XDG_CONFIG_HOME", folder));
    settings.chain(config).filter(move |_| of_caller)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a tool of the checkout hands the caller's settings on to its daemon"
)]
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Wish> {
        Wish::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    fn local(file: &str, name: &str) -> Source {
        Source::Local { file: file.into(), name: name.into() }
    }

    #[test]
    fn models_and_providers_are_named() {
        let wish =
            parse(&["--model", "/m/Qwen.gguf", "--model", "/a=b/q.gguf", "--provider", "anthropic"]).unwrap();
        let wanted =
            [local("/m/Qwen.gguf", "qwen"), local("/a=b/q.gguf", "q"), Source::Provider("anthropic".into())];
        assert_eq!((wish.sources, wish.seconds), (wanted.to_vec(), SECONDS));
        assert_eq!(parse(&["--model", "/m/q.gguf=small"]).unwrap().sources, [local("/m/q.gguf", "small")]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let refused: [&[&str]; 8] = [
            &[],
            &["--model"],
            &["--model", "q.gguf="],
            &["--provider", "builtin", "--seconds", "0"],
            &["--provider", "builtin", "--list"],
            &["--provider", "builtin", "--goals", "a", "--write"],
            &["--fast"],
            &["--goals", "a"],
        ];
        for words in refused {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(parse(&["--list", "--write"]).unwrap().list, "the control");
        assert!(parse(&["--help"]).unwrap().help);
    }

    #[test]
    fn an_unknown_goal_is_named() {
        let wish = parse(&["--provider", "builtin", "--goals", "no-such"]).unwrap();
        assert!(wish.choose(&[]).unwrap_err().to_string().contains("no-such"));
    }

    #[test]
    fn the_planner_gets_nothing_of_the_caller() {
        assert_eq!(inherited(BUILTIN).count(), 0);
        let names: Vec<&str> = inherited("anthropic").map(|(name, _)| name).collect();
        assert!(names.iter().all(|name| SETTINGS.contains(name) || *name == "XDG_CONFIG_HOME"), "{names:?}");
    }
}
