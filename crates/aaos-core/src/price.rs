//! What models cost.
//!
//! Invariant: costs are exact and rounded up, so that a purse is never charged less than the price says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::Usage;
use crate::name::{ModelName, ProviderName};
use crate::quantity::{MicroUsd, Tokens};

/// Most models that a price table holds.
pub const MAX_PRICES: usize = 4_096;
/// Between a provider's name and a model's, where a name is written with both.
const SEPARATORS: [&str; 2] = ["::", "/"];
/// Tokens that a price is for.
const PRICED_TOKENS: u128 = 1_000_000;

/// The price of one model: US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Price {
    /// Of input that the provider's cache did not hold.
    pub input: MicroUsd,
    /// Of input that it did.
    pub cached_input: MicroUsd,
    /// Of output.
    pub output: MicroUsd,
}

/// Why a price is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PriceError {
    /// Not an amount of dollars.
    #[error(
        "`{field}` is {found:?}; write US dollars per million tokens with at most six decimals, as \"3.00\""
    )]
    Amount {
        /// Which of the three.
        field: &'static str,
        /// As written.
        found: String,
    },
    /// More models than a table takes.
    #[error("prices for more than {MAX_PRICES} models; leave out those that are not used")]
    TooMany,
}

impl Price {
    /// Reads the three amounts from decimal text.
    ///
    /// # Errors
    /// [`PriceError::Amount`] naming the one that is none.
    pub fn parse(input: &str, cached_input: &str, output: &str) -> Result<Self, PriceError> {
        let read = |field, text: &str| {
            let bad = || PriceError::Amount { field, found: crate::capability::cut(text) };
            MicroUsd::from_decimal(text).ok_or_else(bad)
        };
        Ok(Self {
            input: read("input", input)?,
            cached_input: read("cached_input", cached_input)?,
            output: read("output", output)?,
        })
    }

    /// The dearer of the two in each respect.
    fn dearer(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cached_input: self.cached_input.max(other.cached_input),
            output: self.output.max(other.output),
        }
    }

    /// What a reported usage costs. More cached input than input is read as all input being cached.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> MicroUsd {
        let cached = usage.cached_input_tokens.min(usage.input_tokens);
        let fresh = usage.input_tokens.minus(cached);
        sum([(fresh, self.input), (cached, self.cached_input), (usage.output_tokens, self.output)])
    }

    /// The most that so many tokens can cost.
    #[must_use]
    pub fn at_most(&self, input: Tokens, output: Tokens) -> MicroUsd {
        sum([(input, self.input.max(self.cached_input)), (output, self.output)])
    }

    /// The longest output that `left` pays for after so much input; `None` where output is free.
    #[must_use]
    pub fn output_within(&self, left: MicroUsd, input: Tokens) -> Option<Tokens> {
        let exact = u128::from(left.0).saturating_mul(PRICED_TOKENS);
        let before = u128::from(input.0).saturating_mul(u128::from(self.input.max(self.cached_input).0));
        let tokens = exact.saturating_sub(before).checked_div(u128::from(self.output.0))?;
        Some(Tokens(u64::try_from(tokens).unwrap_or(u64::MAX)))
    }

    /// The least that so many tokens can cost.
    #[must_use]
    pub fn at_least(&self, tokens: Tokens) -> MicroUsd {
        sum([(tokens, self.input.min(self.cached_input).min(self.output))])
    }
}

/// What each model costs, found by any name that leads to it: its own, an alias, or one with its provider's name
/// before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceTable {
    prices: BTreeMap<ModelName, Price>,
    aliases: Vec<(ModelName, ModelName)>,
    providers: Vec<ProviderName>,
}

impl PriceTable {
    /// A table of models by the names that their provider uses.
    ///
    /// # Errors
    /// [`PriceError::TooMany`].
    pub fn new(prices: BTreeMap<ModelName, Price>) -> Result<Self, PriceError> {
        if prices.len() > MAX_PRICES {
            return Err(PriceError::TooMany);
        }
        Ok(Self { prices, aliases: Vec::new(), providers: Vec::new() })
    }

    /// The same with the entries of `other` in the place of its own.
    ///
    /// # Errors
    /// [`PriceError::TooMany`].
    pub fn under(mut self, other: Self) -> Result<Self, PriceError> {
        self.prices.extend(other.prices);
        if self.prices.len() > MAX_PRICES { Err(PriceError::TooMany) } else { Ok(self) }
    }

    /// The same, knowing what the aliases mean and which providers are configured.
    #[must_use]
    pub fn with_names(self, aliases: Vec<(ModelName, ModelName)>, providers: Vec<ProviderName>) -> Self {
        Self { aliases, providers, ..self }
    }

    /// What a model or alias costs. Of an alias with several meanings the dearest; none if one of them has no price,
    /// for it may be the one that answers.
    #[must_use]
    pub fn get(&self, name: &ModelName) -> Option<Price> {
        let mut meanings = self.aliases.iter().filter(|(alias, _)| alias == name).map(|(_, means)| means);
        let Some(first) = meanings.next() else {
            return self.model(name);
        };
        meanings.try_fold(self.model(first)?, |dearest, means| Some(dearest.dearer(self.model(means)?)))
    }

    fn model(&self, name: &ModelName) -> Option<Price> {
        self.prices.get(name).or_else(|| self.prices.get(&self.without_provider(name)?)).copied()
    }

    /// Only a configured provider's name is taken off: others are part of the model's.
    fn without_provider(&self, name: &ModelName) -> Option<ModelName> {
        SEPARATORS.iter().find_map(|separator| {
            let (provider, model) = name.as_str().split_once(separator)?;
            let known = self.providers.iter().any(|one| one.as_str() == provider);
            known.then(|| ModelName::parse(model).ok()).flatten()
        })
    }
}

fn sum<const N: usize>(parts: [(Tokens, MicroUsd); N]) -> MicroUsd {
    let exact = parts.into_iter().fold(0_u128, |sum, (tokens, price)| {
        sum.saturating_add(u128::from(tokens.0).saturating_mul(u128::from(price.0)))
    });
    MicroUsd(u64::try_from(exact.div_ceil(PRICED_TOKENS)).unwrap_or(u64::MAX))
}
