//! An alias with several meanings: which provider is asked, and which one when that fails. Each with its control.

use crate::support::{LEAD, LEAD_MARK, Ran, Work, entries, kill_the_gateway, run};
use serde_json::{Value, json};
use testkit::{Daemon, DaemonBuilder, ModelServer, Script, Turn, scratch};

const FIRST_KEY: &str = "sk-first-0123456789";
const SECOND_KEY: &str = "sk-second-9876543210";

/// Of a goal whose first provider wants quiet for longer than that.
const DEADLINE_SECONDS: u64 = 600;

/// A daemon whose alias `worker` means a model of a first provider, then one of a second.
struct Two {
    daemon: Daemon,
    first: ModelServer,
    second: ModelServer,
    work: Work,
}

/// The providers of the configuration file, and what `worker` means.
fn config(first: &str, second: &str) -> String {
    format!(
        "[[providers]]\nname = \"first\"\nformat = \"openai\"\nbase_url = \"{first}\"\nmodels = [\"one\"]\n\
         key_env = \"FIRST_API_KEY\"\nheaders = {{ X-Title = \"aaOS test\" }}\n\n\
         [[providers]]\nname = \"second\"\nformat = \"anthropic\"\nbase_url = \"{second}\"\nmodels = [\"two\"]\n\
         key_env = \"SECOND_API_KEY\"\n\n\
         [aliases]\nworker = [\"first/one\", \"second/two\"]\n"
    )
}

fn lead(turns: impl IntoIterator<Item = Turn>) -> ModelServer {
    ModelServer::start(Script::new().when_system(LEAD_MARK, turns))
}

impl Two {
    fn start(first: impl IntoIterator<Item = Turn>, second: impl IntoIterator<Item = Turn>) -> Self {
        let (first, second) = (lead(first), lead(second));
        let url = first.openai_url();
        Self::at(&url, first, second, "")
    }

    /// The first provider at another address, and prices.
    fn at(url: &str, first: ModelServer, second: ModelServer, prices: &str) -> Self {
        let work = Work::new(scratch());
        let builder = DaemonBuilder::openai(&first);
        let directory = builder.home().join("config/aaos");
        std::fs::create_dir_all(&directory).expect("makes directories");
        std::fs::write(directory.join("config.toml"), config(url, &second.anthropic_url())).expect("writes");
        let daemon = builder
            .env("FIRST_API_KEY", FIRST_KEY)
            .env("SECOND_API_KEY", SECOND_KEY)
            .env("AAOS_PRICES", work.put("prices.toml", prices))
            .start();
        Self { daemon, first, second, work }
    }

    fn run(&self) -> Ran {
        run(&mut self.daemon.client(), self.goal(""))
    }

    fn goal(&self, more: &str) -> Value {
        let mut goal = self.work.goal(&[]);
        goal["manifest"] = json!(LEAD.replace("model: smart", &format!("model: worker{more}")));
        goal
    }
}

/// The models that were asked, in order.
fn asked(ran: &Ran) -> Vec<&str> {
    ran.of_kind("inference_requested").iter().filter_map(|one| one["event"]["model"].as_str()).collect()
}

#[test]
fn without_a_fault_the_first_meaning_is_asked_with_its_own_key_and_headers() {
    let two = Two::start([Turn::say("answered")], []);
    let ran = two.run();
    ran.assert_ended("done", 0);
    assert_eq!((ran.goal["response"].as_str(), asked(&ran)), (Some("answered"), vec!["first/one"]));
    let seen = two.first.requests();
    assert_eq!((seen[0].model.as_str(), seen[0].key()), ("one", Some(FIRST_KEY)));
    assert!(
        seen[0].headers.contains(&("x-title".to_owned(), "aaOS test".to_owned())),
        "{:?}",
        seen[0].headers
    );
    assert!(two.second.requests().is_empty());
}

#[test]
fn when_the_first_refuses_its_key_the_second_is_asked_and_from_then_on_first() {
    let echo = || Turn::call("echo", json!({ "message": "hi" }));
    let two = Two::start([Turn::status(401)], [echo(), Turn::say("answered")]);
    let ran = two.run();
    ran.assert_ended("done", 0);
    assert_eq!(ran.goal["response"], "answered");
    assert_eq!(
        asked(&ran),
        ["first/one", "second/two", "second/two"],
        "the refused key is not tried each time"
    );
    let retried = ran.of_kind("inference_retried");
    assert_eq!(retried.len(), 1, "{retried:?}");
    assert_eq!(retried[0]["event"]["instead"], "second/two", "{retried:?}");
    assert_eq!(retried[0]["event"]["failure"]["kind"], "unauthorized", "{retried:?}");
    assert_eq!(two.first.requests().len(), 1);
    let seen = two.second.requests();
    assert_eq!((seen[0].model.as_str(), seen[0].key()), ("two", Some(SECOND_KEY)), "no key goes to another");
    let status = two.daemon.client().call("runtime.status", json!({})).expect("a status");
    let first = status["providers"].as_array().and_then(|all| all.iter().find(|one| one["name"] == "first"));
    let why = first.and_then(|one| one["standing"]["key_refused"]["why"].as_str()).unwrap_or_default();
    assert!(why.contains("check the key"), "{status}");
    let told = two.daemon.cli(["status"]).stdout;
    assert!(told.contains("its key is refused"), "{told}");
    keys_are_nowhere(&two, &ran);
}

#[test]
fn a_provider_that_is_gone_is_not_asked_first() {
    // Nobody listens where somebody just did.
    let gone = ModelServer::start(Script::new()).openai_url();
    let (first, second) = (lead([]), lead([Turn::say("answered")]));
    let two = Two::at(&gone, first, second, "");
    let view = two.daemon.client().call("runtime.models", json!({})).expect("a view");
    let aliases = view["aliases"].as_array().expect("a list");
    let worker = aliases.iter().find(|one| one["alias"] == "worker").expect("it is there");
    assert_eq!(worker["meanings"], json!(["first/one", "second/two"]), "{view}");
    assert_eq!(worker["now"], "second/two", "{view}");
    let ran = two.run();
    ran.assert_ended("done", 0);
    assert_eq!(asked(&ran), ["second/two"]);
}

#[test]
fn when_the_first_fails_the_second_answers() {
    let two = Two::start([Turn::status(500), Turn::status(503)], [Turn::say("answered")]);
    let ran = two.run();
    ran.assert_ended("done", 0);
    assert_eq!(asked(&ran), ["first/one", "second/two"]);
    let completed = ran.of_kind("inference_completed");
    assert_eq!(completed[0]["event"]["attempts"], 2, "another one stands behind it: {completed:?}");
    let retried = ran.of_kind("inference_retried");
    let last = retried.last().expect("it was told");
    assert_eq!(last["event"]["failure"]["kind"], "unavailable", "{retried:?}");
    assert_eq!(last["event"]["instead"], "second/two", "{retried:?}");
}

/// Each time that the second model was asked in the place of the first.
fn retries_instead(ran: &Ran) -> Vec<&Value> {
    let retried = ran.of_kind("inference_retried");
    retried.into_iter().filter(|one| one["event"]["instead"] == "second/two").collect()
}

#[test]
fn each_question_passes_a_provider_that_wants_quiet_until_after_the_deadline() {
    let echo = Turn::call("echo", json!({ "message": "hi" }));
    let two = Two::start([Turn::retry_after(429, 3_600)], [echo, Turn::say("answered")]);
    let mut goal = two.goal("");
    goal["deadline_seconds"] = json!(DEADLINE_SECONDS);
    let ran = run(&mut two.daemon.client(), goal);
    ran.assert_ended("done", 0);
    assert_eq!(ran.goal["response"], "answered");
    let retried = retries_instead(&ran);
    assert_eq!(retried.len(), 2, "both questions went on to the second: {retried:?}");
    assert!(retried.iter().all(|one| one["event"]["failure"]["kind"] == "rate_limited"), "{retried:?}");
    assert_eq!(two.first.requests().len(), 1, "it is left alone");
}

#[test]
fn a_wish_for_quiet_from_before_a_crash_is_passed_too() {
    let two = Two::start([Turn::retry_after(429, 3_600)], [Turn::say("before"), Turn::say("after")]);
    let mut goal = two.goal("");
    goal["deadline_seconds"] = json!(DEADLINE_SECONDS);
    let Two { daemon, first, second, work: _work } = two;
    let ran = run(&mut daemon.client(), goal.clone());
    ran.assert_ended("done", 0);
    assert_eq!(ran.goal["response"], "before", "the control");
    let daemon = daemon.kill9().start();
    let ran = run(&mut daemon.client(), goal);
    ran.assert_ended("done", 0);
    assert_eq!((ran.goal["response"].as_str(), asked(&ran)), (Some("after"), vec!["second/two"]));
    let retried = retries_instead(&ran);
    assert_eq!(retried.len(), 1, "{retried:?}");
    let why = retried[0]["event"]["failure"]["message"].as_str().unwrap_or_default();
    assert!(why.contains("wants no request before"), "{retried:?}");
    assert_eq!((first.requests().len(), second.requests().len()), (1, 2), "the first is left alone");
}

#[test]
fn a_lost_gateway_is_no_fault_of_the_provider_that_was_asked() {
    for is_lost in [true, false] {
        let fails = if is_lost { Turn::Hang } else { Turn::status(500) };
        let two = Two::start([fails, Turn::status(500)], [Turn::say("answered")]);
        let mut client = two.daemon.client();
        let id = client.send("agent.submit_streaming", two.goal(""));
        assert_eq!(two.first.wait_for_requests(1).len(), 1);
        if is_lost {
            kill_the_gateway(&two.daemon);
        }
        let ended = client.reply_to(id).expect("it ends");
        // The keys of the environment are lost with the gateway, so nobody answers then.
        assert_eq!(ended["goal"]["state"], if is_lost { "failed" } else { "done" }, "{ended}");
        let status = two.daemon.client().call("runtime.status", json!({})).expect("a status");
        let all = status["providers"].as_array().expect("a list");
        let first = all.iter().find(|one| one["name"] == "first").expect("it is there");
        assert_eq!(first["standing"]["unreachable"].is_null(), is_lost, "{status}");
    }
}

#[test]
fn when_every_meaning_fails_the_last_failure_is_told() {
    let two = Two::start([Turn::status(401)], [Turn::status(403)]);
    let ran = two.run();
    ran.assert_ended("failed", 5);
    assert_eq!(asked(&ran), ["first/one", "second/two"], "each once");
    assert!(ran.error().contains("provider second answered HTTP 403"), "{}", ran.error());
}

#[test]
fn a_ceiling_in_dollars_wants_a_price_for_each_meaning() {
    let price = |model: &str| {
        format!("[models.\"{model}\"]\ninput = \"1000\"\ncached_input = \"1000\"\noutput = \"1000\"\n")
    };
    let with = |prices: &str, turns: usize| {
        let (first, second) = (lead([Turn::status(401)]), lead(vec![Turn::say("answered"); turns]));
        let url = first.openai_url();
        let two = Two::at(&url, first, second, prices);
        let ran = run(&mut two.daemon.client(), two.goal("\nbudget_config: { max_usd: '50.00' }"));
        (two, ran)
    };
    let (two, ran) = with(&price("one"), 0);
    ran.assert_ended("failed", 2);
    assert!(ran.error().contains("max_usd cannot be kept"), "{}", ran.error());
    assert!(two.first.requests().is_empty() && two.second.requests().is_empty(), "nobody is asked");
    let (_two, ran) = with(&(price("one") + &price("two")), 1);
    ran.assert_ended("done", 0);
    let asked = ran.of_kind("inference_requested");
    assert!(
        asked.iter().all(|one| !one["event"]["price"].is_null()),
        "the control, at its own price: {asked:?}"
    );
}

fn keys_are_nowhere(two: &Two, ran: &Ran) {
    let journal = serde_json::to_string(&entries(&mut two.daemon.client(), json!({}))).expect("JSON");
    assert!(journal.contains("second/two"), "the control");
    let mut texts = vec![journal, two.daemon.stderr(), two.daemon.stdout(), ran.goal.to_string()];
    let pids = two.daemon.processes().into_iter().map(|one| one.pid.to_string());
    for pid in pids.chain([two.daemon.pid().to_string()]) {
        for file in ["environ", "cmdline"] {
            // Another uid's, or one that has just ended: nobody else can read it either.
            let Ok(bytes) = std::fs::read(format!("/proc/{pid}/{file}")) else { continue };
            texts.push(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
    assert!(texts.iter().any(|text| text.contains("AAOS_STATE_DIR")), "the control: a variable is found");
    for text in texts {
        assert!(!text.contains(FIRST_KEY) && !text.contains(SECOND_KEY), "{text}");
    }
}
