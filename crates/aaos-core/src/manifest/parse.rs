//! From the YAML tree to a [`Manifest`].

use std::io;

use crate::capability::{GrantSpec, tool_name};
use crate::limits::{MAX_CAPABILITIES, MAX_SYSTEM_PROMPT_BYTES};
use crate::name::{AgentName, ModelName, NameError, ToolName};
use crate::supervision::{RestartPolicy, Supervision};
use crate::variables::Variables;

use super::budget::budget;
use super::fields::{
    Parsed, count, environment, error, ladder, list, map, metadata, names, share, text, unknown, unsupported,
    window, wrong,
};
use super::lifecycle::lifecycle;
use super::supervision::supervision;
use super::yaml::{self, Content, Node, Pair, Place};
use super::{BudgetConfig, Lifecycle, Manifest, ManifestError, MemoryConfig, Problem};

const FIELDS: [&str; 14] = [
    "accepts",
    "approval_required",
    "budget_config",
    "capabilities",
    "child_models",
    "environment",
    "lifecycle",
    "memory",
    "metadata",
    "model",
    "models",
    "name",
    "supervision",
    "system_prompt",
];
const MEMORY_FIELDS: [&str; 8] = [
    "archive_ttl_days",
    "context_window",
    "episodic_enabled",
    "episodic_max_content_bytes",
    "episodic_max_records",
    "max_history_messages",
    "summarization_model",
    "summarization_threshold",
];

pub(super) fn manifest(yaml: &str) -> Parsed<Manifest> {
    let root = tree(yaml)?;
    let Content::Map(pairs) = &root.content else {
        return Err(wrong(&root, "manifest", "a map of fields"));
    };
    let mut draft = Draft::default();
    for pair in pairs {
        draft.take(pair)?;
    }
    draft.finish(root.place)
}

fn tree(yaml: &str) -> Parsed<Node> {
    yaml::parse(yaml).map_err(|fault| error(fault.place, Problem::Yaml(fault.message)))
}

/// A manifest on the way.
#[derive(Default)]
struct Draft {
    name: Option<AgentName>,
    /// Of `model` the only one.
    models: Vec<ModelName>,
    system_prompt: Option<String>,
    lifecycle: Lifecycle,
    capabilities: Vec<GrantSpec>,
    memory: MemoryConfig,
    budget_config: BudgetConfig,
    approval_required: Vec<ToolName>,
    child_models: Vec<ModelName>,
    supervision: Supervision,
    environment: Variables,
    accepts: Option<serde_json::Value>,
    metadata: std::collections::BTreeMap<String, String>,
}

impl Draft {
    fn take(&mut self, pair: &Pair) -> Parsed<()> {
        let value = &pair.value;
        match pair.key.as_str() {
            "name" => self.name = Some(named(value, "name", AgentName::parse)?),
            "model" | "models" => self.models(pair)?,
            "system_prompt" => self.system_prompt = Some(prompt(value)?),
            "lifecycle" => self.lifecycle = lifecycle(value)?,
            "capabilities" => self.capabilities = capabilities(value)?,
            "memory" => self.memory = memory(value)?,
            "budget_config" => self.budget_config = budget(value)?,
            "accepts" => self.accepts = Some(accepts(value)?),
            "metadata" => self.metadata = metadata(value)?,
            "approval_required" => {
                self.approval_required = names(value, "approval_required", known_tool)?;
            }
            "child_models" => {
                let model = |node: &Node| named(node, "child_models", ModelName::parse);
                self.child_models = names(value, "child_models", model)?;
            }
            "supervision" => self.supervision = supervision(value)?,
            "environment" => self.environment = environment(value)?,
            "misfire" => {
                return Err(unknown(pair, "the manifest", &["lifecycle: { scheduled: …, misfire: … }"]));
            }
            _ => return Err(unknown(pair, "the manifest", &FIELDS)),
        }
        Ok(())
    }

    fn models(&mut self, pair: &Pair) -> Parsed<()> {
        if !self.models.is_empty() {
            return Err(error(pair.at, Problem::Both { one: "model", other: "models" }));
        }
        self.models = match pair.key.as_str() {
            "model" => vec![named(&pair.value, "model", ModelName::parse)?],
            _ => ladder(&pair.value, |node| named(node, "models", ModelName::parse))?,
        };
        Ok(())
    }

    fn finish(self, at: Place) -> Parsed<Manifest> {
        let missing = |field| error(at, Problem::Missing { field });
        if self.supervision.restart == RestartPolicy::Always && self.lifecycle == Lifecycle::OnDemand {
            return Err(unsupported(at, "supervision: { restart: always } of an agent without a mailbox"));
        }
        let mut models = self.models.into_iter();
        Ok(Manifest {
            name: self.name.ok_or_else(|| missing("name"))?,
            model: models.next().ok_or_else(|| missing("model"))?,
            next_models: models.collect(),
            system_prompt: self.system_prompt.ok_or_else(|| missing("system_prompt"))?,
            lifecycle: self.lifecycle,
            capabilities: self.capabilities,
            memory: self.memory,
            budget_config: self.budget_config,
            approval_required: self.approval_required,
            child_models: self.child_models,
            supervision: self.supervision,
            environment: self.environment,
            accepts: self.accepts,
            metadata: self.metadata,
        })
    }
}

fn named<T>(node: &Node, field: &'static str, parse: fn(&str) -> Result<T, NameError>) -> Parsed<T> {
    parse(text(node, field)?).map_err(|source| error(node.place, Problem::Name { field, source }))
}

fn known_tool(node: &Node) -> Parsed<ToolName> {
    let name = text(node, "approval_required")?;
    tool_name(name).map_err(|why| error(node.place, Problem::Capability(why)))
}

fn prompt(node: &Node) -> Parsed<String> {
    if let Some(path) = prompt_file(node)? {
        return Err(error(node.place, Problem::SystemPromptFile { path: path.to_owned() }));
    }
    let prompt = text(node, "system_prompt")?;
    if prompt.trim().is_empty() || prompt.len() > MAX_SYSTEM_PROMPT_BYTES {
        return Err(wrong(node, "system_prompt", "text of 1 byte to 128 KiB"));
    }
    Ok(prompt.to_owned())
}

/// The path in `{ file: PATH }`, if that is the form used.
fn prompt_file(node: &Node) -> Parsed<Option<&str>> {
    let Content::Map(pairs) = &node.content else {
        return Ok(None);
    };
    if let Some(other) = pairs.iter().find(|pair| pair.key != "file") {
        return Err(unknown(other, "system_prompt", &["file"]));
    }
    match pairs.first() {
        Some(pair) => text(&pair.value, "system_prompt.file").map(Some),
        None => Err(wrong(node, "system_prompt", "text or { file: PATH }")),
    }
}

fn capabilities(node: &Node) -> Parsed<Vec<GrantSpec>> {
    let entries = list(node, "capabilities")?;
    if entries.len() > MAX_CAPABILITIES {
        return Err(wrong(node, "capabilities", "a list of at most 256 entries"));
    }
    let read = |entry| yaml::grant_spec(entry).map_err(|(at, why)| error(at, Problem::Capability(why)));
    entries.iter().map(read).collect()
}

fn memory(node: &Node) -> Parsed<MemoryConfig> {
    let mut memory = MemoryConfig::default();
    for pair in map(node, "memory")? {
        let value = &pair.value;
        match pair.key.as_str() {
            "context_window" => memory.context_window = window(value, "memory.context_window")?,
            "max_history_messages" => {
                let count = count(value, "memory.max_history_messages")?;
                let fits = u32::try_from(count);
                memory.max_history_messages = fits
                    .map_err(|_| wrong(value, "memory.max_history_messages", "a whole number below 2^32"))?;
            }
            "summarization_threshold" => {
                memory.summarization_threshold = Some(share(value, "memory.summarization_threshold")?);
            }
            "summarization_model" => {
                memory.summarization_model =
                    Some(named(value, "memory.summarization_model", ModelName::parse)?);
            }
            "archive_ttl_days" => {
                let field = "memory.archive_ttl_days";
                let days = u32::try_from(count(value, field)?);
                memory.archive_ttl_days =
                    Some(days.map_err(|_| wrong(value, field, "a whole number of days below 2^32"))?);
            }
            "episodic_enabled" if value.content == Content::Flag(false) => {}
            later if MEMORY_FIELDS.contains(&later) => {
                return Err(unsupported(pair.at, format!("memory.{later}")));
            }
            _ => return Err(unknown(pair, "memory", &MEMORY_FIELDS)),
        }
    }
    Ok(memory)
}

fn accepts(node: &Node) -> Parsed<serde_json::Value> {
    match &node.content {
        Content::Map(_) | Content::Flag(_) => Ok(node.to_json()),
        _ => Err(wrong(node, "accepts", "a JSON Schema (a map, true or false)")),
    }
}

/// Puts the text of the file that `system_prompt: { file: PATH }` names in its place, for the command line. A manifest
/// without that form comes back unchanged.
///
/// # Errors
/// [`ManifestError`] when the text is no YAML map or `read` fails.
pub fn inline_prompt_file(
    yaml: &str,
    read: impl FnOnce(&str) -> io::Result<String>,
) -> Result<String, ManifestError> {
    let root = tree(yaml)?;
    let Content::Map(pairs) = &root.content else {
        return Ok(yaml.to_owned());
    };
    let Some(pair) = pairs.iter().find(|pair| pair.key == "system_prompt") else {
        return Ok(yaml.to_owned());
    };
    let Some(path) = prompt_file(&pair.value)? else {
        return Ok(yaml.to_owned());
    };
    let unreadable = |why: io::Error| {
        error(pair.value.place, Problem::PromptUnreadable { path: path.to_owned(), reason: why.to_string() })
    };
    let prompt = read(path).map_err(unreadable)?;
    let mut whole = root.to_json();
    whole["system_prompt"] = prompt.into();
    for section in ["budget_config", "supervision"] {
        if let Some(digits) = dollars_as_written(pairs, section) {
            whole[section]["max_usd"] = digits.into();
        }
    }
    // JSON is YAML: the manifest is written anew, with the same fields.
    Ok(whole.to_string())
}

/// The digits of a section's `max_usd`, which a number in JSON would round.
fn dollars_as_written<'p>(pairs: &'p [Pair], section: &str) -> Option<&'p str> {
    let find = |pairs: &'_ [Pair], key: &str| pairs.iter().position(|pair| pair.key == key);
    let Content::Map(fields) = &pairs.get(find(pairs, section)?)?.value.content else {
        return None;
    };
    match &fields.get(find(fields, "max_usd")?)?.value.content {
        Content::Fraction { written, .. } => Some(written),
        _ => None,
    }
}
