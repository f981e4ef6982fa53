//! Keys in files: who reads them, which are refused, and that a lost gateway comes back with them.

use crate::support::{LEAD_MARK, Ran, Work, entries, kill_the_gateway, run, wait_for_stderr};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use testkit::{Daemon, DaemonBuilder, ModelServer, Script, Turn, scratch};

const KEY: &str = "sk-file-0123456789abcdef";

struct Rig {
    daemon: Daemon,
    models: ModelServer,
    work: Work,
    key: PathBuf,
}

fn builder(models: &ModelServer) -> DaemonBuilder {
    // An empty variable counts as absent.
    DaemonBuilder::openai(models).env("OPENAI_API_KEY", "")
}

fn set_mode(path: &PathBuf, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("sets the mode");
}

impl Rig {
    /// A daemon whose provider has its key in the user's own place, with this mode.
    fn start(mode: u32, turns: usize) -> Self {
        let models =
            ModelServer::start(Script::new().when_system(LEAD_MARK, vec![Turn::say("answered"); turns]));
        let builder = builder(&models);
        let directory = builder.home().join("config/aaos/keys");
        std::fs::create_dir_all(&directory).expect("makes directories");
        let key = directory.join("openai");
        std::fs::write(&key, format!("{KEY}\n")).expect("writes");
        set_mode(&key, mode);
        Self { daemon: builder.start(), models, work: Work::new(scratch()), key }
    }

    fn run(&self) -> Ran {
        run(&mut self.daemon.client(), self.work.goal(&[]))
    }

    fn keys_seen(&self) -> Vec<Option<String>> {
        self.models.requests().iter().map(|seen| seen.key().map(str::to_owned)).collect()
    }
}

#[test]
fn a_gateway_that_was_killed_comes_back_with_the_key_in_the_file_as_it_is_then() {
    let rig = Rig::start(0o600, 2);
    rig.run().assert_ended("done", 0);
    kill_the_gateway(&rig.daemon);
    std::fs::write(&rig.key, "sk-changed-meanwhile").expect("writes");
    let ran = rig.run();
    ran.assert_ended("done", 0);
    assert_eq!(rig.keys_seen(), [Some(KEY.to_owned()), Some("sk-changed-meanwhile".to_owned())]);
    let journal = json!(entries(&mut rig.daemon.client(), json!({}))).to_string();
    assert!(journal.contains("answered"), "the control");
    for text in [journal, rig.daemon.stderr(), rig.daemon.stdout(), ran.goal.to_string()] {
        assert!(!text.contains(KEY) && !text.contains("sk-changed"), "{text}");
    }
    let memory = std::fs::read(format!("/proc/{}/environ", rig.daemon.pid())).expect("its own uid");
    assert!(!String::from_utf8_lossy(&memory).contains("sk-"), "nothing of it is in the environment");
}

#[test]
fn a_key_file_that_others_may_read_is_refused_until_its_mode_is_right() {
    let rig = Rig::start(0o644, 1);
    let ran = rig.run();
    ran.assert_ended("failed", 5);
    let wanted = format!("chmod 600 {}", rig.key.display());
    assert!(ran.error().contains("mode 0644"), "{}", ran.error());
    wait_for_stderr(&rig.daemon, &wanted);
    let told = rig.daemon.cli(["status"]).stdout;
    assert!(told.contains("cannot be used") && told.contains("0644"), "{told}");
    assert_eq!(rig.keys_seen(), [], "nobody is asked without the key");
    set_mode(&rig.key, 0o600);
    kill_the_gateway(&rig.daemon);
    rig.run().assert_ended("done", 0);
    assert_eq!(rig.keys_seen(), [Some(KEY.to_owned())], "the control");
}

#[test]
fn a_credential_of_the_service_manager_is_a_key_of_the_provider_of_its_name() {
    let models = ModelServer::start(Script::new().when_system(LEAD_MARK, [Turn::say("answered")]));
    let builder = builder(&models);
    let directory = builder.home().join("credentials");
    std::fs::create_dir(&directory).expect("makes it");
    let key = directory.join("openai");
    std::fs::write(&key, KEY).expect("writes");
    set_mode(&key, 0o440);
    let daemon = builder.env("CREDENTIALS_DIRECTORY", &directory).start();
    let work = Work::new(scratch());
    run(&mut daemon.client(), work.goal(&[])).assert_ended("done", 0);
    assert_eq!(models.requests()[0].key(), Some(KEY));
    let mut goal = work.goal(&[]);
    goal["grants"] = json!([format!("file_read: {}", key.display())]);
    let ran = run(&mut daemon.client(), goal);
    assert_ne!(ran.exit_code(), 0, "no grant reaches it: {}", ran.goal);
    assert_eq!(models.requests().len(), 1);
}
