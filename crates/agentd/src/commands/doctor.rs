//! `doctor`: what this machine can enforce, proved by starting real workers.
//!
//! Invariants: the verdict is that of a launch under the policy in force, the same that a daemon makes; a
//! second launch that requires nothing only shows what is missing. The launchers start before any thread exists.

use std::path::Path;

use aaos_core::confinement::{Boundary, ConfinementPolicy, ConfinementReceipt, Substrate};
use aaos_sandbox::{GroupName, Groups, Sandbox, SandboxError, ZygoteSeed, lock_this_daemon};
use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::JsonArgs;
use crate::exit::Exit;
use crate::render::text::{REASON_CHARS, cut};
use crate::render::{Screen, Tone, entry, receipt};
use crate::settings::Settings;

/// Longest file of /proc or /sys that is read.
const MAX_FACT_BYTES: u64 = 4096;

/// All that is found out.
#[derive(Debug, Serialize)]
struct Report {
    kernel: Kernel,
    programs: Vec<Program>,
    /// The provider that the aliases `smart` and `fast` go to.
    provider: String,
    substrate: Substrate,
    policy: ConfinementPolicy,
    /// The receipt of a real worker, under a policy that requires nothing.
    receipt: Option<ConfinementReceipt>,
    /// Why there is none.
    receipt_error: Option<String>,
    required_missing: Vec<Boundary>,
    preferred_missing: Vec<Boundary>,
    /// How this process locked itself, as agentd does.
    daemon: Option<ConfinementReceipt>,
    /// Whether this process could lock itself, and a worker started under the policy in force.
    can_confine: bool,
    /// Why not.
    reason: Option<String>,
}

/// What the kernel offers.
#[derive(Debug, Serialize)]
struct Kernel {
    release: String,
    landlock_abi: u32,
    security_modules: Option<String>,
    seccomp_actions: Option<String>,
    max_user_namespaces: Option<String>,
    unprivileged_user_namespaces: Option<String>,
    apparmor_restricts_user_namespaces: Option<String>,
    cgroup_controllers: Option<String>,
}

/// A program that agentd starts.
#[derive(Debug, Serialize)]
struct Program {
    path: String,
    found: bool,
}

impl Kernel {
    fn read() -> Self {
        let restricts = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        Self {
            release: fact("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".to_owned()),
            landlock_abi: aaos_confine::kernel_abi(),
            security_modules: fact("/sys/kernel/security/lsm"),
            seccomp_actions: fact("/proc/sys/kernel/seccomp/actions_avail"),
            max_user_namespaces: fact("/proc/sys/user/max_user_namespaces"),
            unprivileged_user_namespaces: fact("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts_user_namespaces: fact(restricts),
            cgroup_controllers: fact("/sys/fs/cgroup/cgroup.controllers"),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let known =
            |fact: &Option<String>| fact.clone().unwrap_or_else(|| "not shown by this kernel".to_owned());
        let switched = |fact: &Option<String>, on: &str| match fact.as_deref() {
            None => String::new(),
            Some("0") => format!("; {on}: no"),
            Some(_) => format!("; {on}: yes"),
        };
        let user = format!(
            "at most {}{}{}",
            known(&self.max_user_namespaces),
            switched(&self.unprivileged_user_namespaces, "without privilege"),
            switched(&self.apparmor_restricts_user_namespaces, "restricted by AppArmor"),
        );
        let abi = match self.landlock_abi {
            0 => "not offered: CONFIG_SECURITY_LANDLOCK is off, or it is not among lsm= at boot".to_owned(),
            abi => format!("ABI {abi}"),
        };
        vec![
            ("kernel", format!("Linux {}", self.release)),
            ("Landlock", abi),
            ("LSMs", known(&self.security_modules)),
            ("seccomp", known(&self.seccomp_actions)),
            ("user namespaces", user),
            ("cgroups", known(&self.cgroup_controllers)),
        ]
    }
}

fn fact(path: &str) -> Option<String> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(MAX_FACT_BYTES).read_to_string(&mut text).ok()?;
    Some(cut(text.trim(), REASON_CHARS))
}

fn program(path: &Path) -> Program {
    Program { path: cut(&path.display().to_string(), REASON_CHARS), found: path.is_file() }
}

/// `doctor`.
pub(super) fn doctor(settings: &Settings, args: &JsonArgs, screen: Screen) -> Result<Exit> {
    let name = GroupName::of_process().context("cannot look at this process's own PID namespace")?;
    let groups = Groups::claim(&name);
    let start = || Ok(ZygoteSeed::start(&settings.worker, None)?.within(groups.clone()));
    let seeds = start().and_then(|survey| Ok((survey, start()?)));
    // As in agentd: after the launchers were started, before there is any thread.
    let own = lock_this_daemon().map_err(|error| words(&error.into()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let report = runtime.block_on(examine(settings, seeds, own));
    if args.json {
        screen.json(&report)?;
    } else {
        show(&report, screen)?;
    }
    Ok(if report.can_confine { Exit::Done } else { Exit::Confinement })
}

type Seeds = (ZygoteSeed, ZygoteSeed);

async fn examine(
    settings: &Settings,
    seeds: Result<Seeds, SandboxError>,
    own: Result<ConfinementReceipt, String>,
) -> Report {
    let policy = settings.policy.clone();
    let (survey, strict) = match seeds {
        Ok((survey, strict)) => {
            let lax = ConfinementPolicy { require: Vec::new(), prefer: Vec::new(), landlock_abi: 0 };
            (launch(survey, lax).await, launch(strict, policy.clone()).await)
        }
        Err(error) => {
            let why = words(&error.into());
            (Err(why.clone()), Err(why))
        }
    };
    let unproved = |list: &[Boundary]| match &survey {
        Ok(receipt) => receipt::unproved(receipt, list),
        Err(_) => list.to_vec(),
    };
    Report {
        kernel: Kernel::read(),
        programs: programs(settings),
        required_missing: unproved(&policy.require),
        preferred_missing: unproved(&policy.prefer),
        receipt_error: survey.as_ref().err().cloned(),
        receipt: survey.ok(),
        can_confine: strict.is_ok() && own.is_ok(),
        reason: strict.err().or(own.as_ref().err().cloned()),
        daemon: own.ok(),
        provider: settings.provider.clone(),
        substrate: settings.substrate,
        policy,
    }
}

/// What agentd starts: the program of local models where there are any.
fn programs(settings: &Settings) -> Vec<Program> {
    let local = (!settings.local.models.is_empty()).then_some(&settings.model_program);
    [&settings.worker, &settings.gateway].into_iter().chain(local).map(|path| program(path)).collect()
}

/// Starts one worker under a policy, and ends it.
async fn launch(seed: ZygoteSeed, policy: ConfinementPolicy) -> Result<ConfinementReceipt, String> {
    let sandbox = Sandbox::adopt(seed, policy).map_err(|error| words(&error.into()))?;
    let launched = sandbox.launch_worker().await;
    let receipt = match launched {
        Ok(worker) => {
            let receipt = worker.receipt().clone();
            worker.stop().await;
            Ok(receipt)
        }
        Err(error) => Err(words(&error.into())),
    };
    sandbox.shutdown().await;
    receipt
}

fn words(error: &anyhow::Error) -> String {
    cut(&format!("{error:#}"), REASON_CHARS)
}

fn show(report: &Report, screen: Screen) -> Result<()> {
    for (name, value) in report.kernel.lines() {
        screen.line(Tone::Plain, &format!("{name:<16} {value}"))?;
    }
    screen.line(Tone::Plain, &format!("{:<16} {}", "provider", report.provider))?;
    screen.line(Tone::Plain, &format!("{:<16} {}", "substrate", entry::word(&report.substrate)))?;
    for Program { path, found } in &report.programs {
        let (tone, state) =
            if *found { (Tone::Plain, "found") } else { (Tone::Bad, "missing; set AAOS_LIBEXEC_DIR") };
        screen.line(tone, &format!("{:<16} {path}: {state}", "program"))?;
    }
    match (&report.receipt, &report.receipt_error) {
        (Some(found), _) => {
            let abi = found.landlock_abi;
            screen.line(
                Tone::Bold,
                &format!("\na real worker, pid {}, Landlock ABI {abi} in force:\n", found.pid),
            )?;
            screen.table(&receipt::lines(found, &report.policy))?;
            show_hashes(found, screen)?;
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or("nothing is known");
            screen.line(Tone::Bad, &format!("\nno worker could be started: {why}"))?;
        }
    }
    if let Some(own) = &report.daemon {
        screen.line(Tone::Bold, "\nthis process, locked as agentd locks itself:\n")?;
        screen.table(&receipt::lines(own, &report.policy))?;
        show_hashes(own, screen)?;
    }
    if !report.preferred_missing.is_empty() {
        let lacks = entry::boundaries(&report.preferred_missing);
        screen.line(Tone::Warn, &format!("\npreferred and not proved here: {lacks}"))?;
    }
    match &report.reason {
        None => screen.line(Tone::Good, "\nagents can be confined as the policy requires")?,
        Some(why) => {
            let lacks = entry::boundaries(&report.required_missing);
            screen.line(Tone::Bad, &format!("\nagents CANNOT be confined as the policy requires: {why}"))?;
            screen.line(
                Tone::Bad,
                &format!(
                    "required and not proved here: {}",
                    if lacks.is_empty() { "see above" } else { &lacks }
                ),
            )?;
        }
    }
    Ok(())
}

/// What tells two filters or two sets of rules apart.
fn show_hashes(found: &ConfinementReceipt, screen: Screen) -> Result<()> {
    screen.line(
        Tone::Plain,
        &format!(
            "\nseccomp filter {}\nLandlock rules {}",
            entry::hash_words(&found.seccomp_filter_hash),
            entry::hash_words(&found.landlock_rules_hash)
        ),
    )?;
    Ok(())
}
