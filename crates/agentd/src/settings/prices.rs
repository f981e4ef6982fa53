//! What models cost: the shipped table, with the operator's own entries over it.
//!
//! Invariants: amounts are decimal text and never a binary fraction; an unknown key is an error; a model in neither
//! table has no price.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use aaos_core::name::{ModelName, ProviderName};
use aaos_core::price::{Price, PriceTable};
use aaos_core::wire::ModelsSetup;
use aaos_runtime::{LocalConfig, LocalWeights};
use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::local::LOCAL;

/// The shipped table.
const SHIPPED: &str = include_str!("../../../../manifests/prices.toml");
/// Longest file, bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A price file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    #[serde(default)]
    models: BTreeMap<String, Entry>,
}

/// One model's price, US dollars per million tokens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    input: String,
    cached_input: String,
    output: String,
}

/// The shipped prices under those of the file, found by the aliases and providers of this setup too. What this machine
/// runs itself costs nothing, and says nothing about a model of the same name somewhere else.
pub(crate) fn load(own: Option<&Path>, models: &ModelsSetup, local: &LocalConfig) -> Result<PriceTable> {
    let mut table = parse(SHIPPED).context("the shipped price table")?;
    let free = Price::parse("0", "0", "0")?;
    let here = |name: &ModelName| ModelName::parse(&format!("{LOCAL}/{name}"));
    let mut own_models = BTreeMap::new();
    let mut own_names = Vec::new();
    for LocalWeights { name, .. } in &local.models {
        own_models.insert(here(name)?, free);
        own_models.insert(ModelName::parse(&format!("{LOCAL}::{name}"))?, free);
        own_names.push((name.clone(), here(name)?));
    }
    for (alias, name) in &local.aliases {
        own_names.push((alias.clone(), here(name)?));
    }
    table = table.under(PriceTable::new(own_models)?)?;
    if let Some(path) = own {
        let read = || table.under(parse(&read(path)?)?).map_err(anyhow::Error::from);
        table = read().with_context(|| format!("cannot use the price table {}", path.display()))?;
    }
    let mut providers: Vec<ProviderName> =
        models.providers.iter().map(|provider| provider.name.clone()).collect();
    providers.push(ProviderName::parse(LOCAL)?);
    let aliases = models.aliases.iter().cloned().chain(own_names).collect();
    Ok(table.with_names(aliases, providers))
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES {
        bail!("it is longer than {MAX_FILE_BYTES} bytes");
    }
    Ok(text)
}

fn parse(text: &str) -> Result<PriceTable> {
    let file: PriceFile = toml::from_str(text)?;
    let mut prices = BTreeMap::new();
    for (name, entry) in file.models {
        let in_entry = || format!("[models.{name:?}]");
        let model = ModelName::parse(&name).with_context(in_entry)?;
        let price = Price::parse(&entry.input, &entry.cached_input, &entry.output).with_context(in_entry)?;
        prices.insert(model, price);
    }
    Ok(PriceTable::new(prices)?)
}

#[cfg(test)]
mod tests {
    use super::{LocalConfig, LocalWeights, MAX_FILE_BYTES, SHIPPED, load, parse};
    use crate::settings::keys::Keys;
    use crate::settings::providers::{Choice, Sources, setup};
    use aaos_core::name::ModelName;
    use aaos_core::quantity::{Bytes, MicroUsd, Tokens};
    use aaos_core::wire::ModelsSetup;

    fn model(name: &str) -> ModelName {
        ModelName::parse(name).expect("a name")
    }

    fn models(keys: &[&str], chosen: Option<&str>) -> ModelsSetup {
        let keys: Keys = keys.iter().map(|name| ((*name).to_owned(), "secret".to_owned())).collect();
        let choice = Choice { model: chosen.map(str::to_owned), ..Choice::default() };
        setup(&Sources { choice, ..Sources::default() }, &keys).expect("configured").1
    }

    fn words(result: anyhow::Result<aaos_core::price::PriceTable>) -> String {
        format!("{:#}", result.expect_err("refused"))
    }

    #[test]
    fn every_model_that_an_alias_means_has_a_shipped_price() {
        for key in ["DEEPSEEK_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY"] {
            let models = models(&[key], None);
            let table = load(None, &models, &LocalConfig::default()).expect("the shipped table");
            for (alias, means) in &models.aliases {
                let price = table.get(alias);
                assert!(price.is_some_and(|price| price.input > MicroUsd::ZERO), "{key}: {alias}");
                assert_eq!(price, table.get(means), "{key}: {alias} costs what {means} costs");
                let provider = &models.providers[0].name;
                assert_eq!(price, table.get(&model(&format!("{provider}/{means}"))), "{provider}/{means}");
            }
        }
        let table = load(None, &models(&[], None), &LocalConfig::default()).expect("the shipped table");
        assert_eq!(
            table.get(&model("smart")).map(|price| price.output),
            Some(MicroUsd::ZERO),
            "the planner is free"
        );
    }

    #[test]
    fn a_model_of_this_machine_is_free_and_makes_no_other_of_its_name_free() {
        let weights = |name: &str| LocalWeights {
            name: model(name),
            file: "/w".into(),
            bytes: Bytes(1),
            window: Tokens(1),
        };
        let local = LocalConfig {
            models: vec![weights("gpt-4o"), weights("own")],
            aliases: vec![(model("fast"), model("own"))],
            ..LocalConfig::default()
        };
        let table = load(None, &models(&["OPENAI_API_KEY"], None), &local).expect("the shipped table");
        let input = |name: &str| table.get(&model(name)).map(|price| price.input);
        for free in ["gpt-4o", "own", "local/own", "local::own", "local/gpt-4o"] {
            assert_eq!(input(free), Some(MicroUsd::ZERO), "{free}");
        }
        assert!(input("openai/gpt-4o").is_some_and(|price| price > MicroUsd::ZERO), "that one is paid");
        assert_eq!(input("openai/own"), None, "nobody knows what that one costs");
    }

    #[test]
    fn an_alias_for_a_model_without_a_price_has_none() {
        let table = load(None, &models(&["OPENAI_API_KEY"], Some("my-own")), &LocalConfig::default())
            .expect("the shipped table");
        assert_eq!((table.get(&model("smart")), table.get(&model("my-own"))), (None, None));
    }

    #[test]
    fn an_own_file_stands_over_the_shipped_one() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("prices.toml");
        let own = "[models.\"my-own\"]\ninput = \"1\"\ncached_input = \"0.5\"\noutput = \"2\"\n\
                   [models.gpt-4o]\ninput = \"9\"\ncached_input = \"9\"\noutput = \"9\"\n";
        std::fs::write(&path, own).expect("written");
        let table = load(Some(&path), &models(&["OPENAI_API_KEY"], Some("my-own")), &LocalConfig::default())
            .expect("both");
        let input = |name: &str| table.get(&model(name)).map(|price| price.input);
        assert_eq!(input("smart"), Some(MicroUsd(1_000_000)));
        assert_eq!(input("gpt-4o"), Some(MicroUsd(9_000_000)));
        assert_eq!(input("gpt-4o-mini"), Some(MicroUsd(150_000)), "the others stay");
        std::fs::write(&path, " ".repeat(usize::try_from(MAX_FILE_BYTES).expect("small") + 1))
            .expect("written");
        assert!(
            words(load(Some(&path), &models(&[], None), &LocalConfig::default())).contains("longer than")
        );
        let absent = home.path().join("absent.toml");
        let said = words(load(Some(&absent), &models(&[], None), &LocalConfig::default()));
        assert!(said.contains("cannot use the price table") && said.contains("absent.toml"), "{said}");
    }

    #[test]
    fn a_file_is_read_strictly() {
        assert!(parse("").is_ok() && parse(SHIPPED).is_ok());
        let entry = |lines: &str| format!("[models.m]\n{lines}");
        let good = "input = \"1\"\ncached_input = \"1\"\noutput = \"1\"\n";
        assert!(parse(&entry(good)).is_ok());
        for (bad, said) in [
            (entry("input = \"1\"\noutput = \"1\""), "cached_input"),
            (entry(&format!("{good}cache = \"1\"")), "cache"),
            (entry(&good.replace("\"1\"", "1.5")), "string"),
            (entry(&good.replace("output = \"1\"", "output = \"1,5\"")), "`output` is \"1,5\""),
            (format!("[model.m]\n{good}"), "model"),
            (format!("[models.\"two words\"]\n{good}"), "two words"),
            (format!("{}{}", entry(good), entry(good)), "duplicate key"),
        ] {
            let error = words(parse(&bad));
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
