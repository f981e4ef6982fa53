//! The words that the goal reader knows, as tables: words parted by spaces.
//!
//! Invariant: every table holds lower-case words only; a word outside them is never guessed at.

/// What a verb asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    /// Read files.
    Read,
    /// Fetch pages.
    Fetch,
    /// List files.
    List,
    /// Search for a pattern.
    Search,
    /// Summarise.
    Summarise,
    /// Compare.
    Compare,
    /// Extract.
    Extract,
    /// Write to a path.
    Write,
    /// Answer in text ("give me", "tell me").
    Tell,
}

/// Verbs that are verbs wherever they stand.
const PLAIN_VERBS: &[(&str, Verb)] = &[
    ("read", Verb::Read),
    ("reading", Verb::Read),
    ("fetch", Verb::Fetch),
    ("fetching", Verb::Fetch),
    ("download", Verb::Fetch),
    ("downloading", Verb::Fetch),
    ("retrieve", Verb::Fetch),
    ("grep", Verb::Search),
    ("searching", Verb::Search),
    ("summarise", Verb::Summarise),
    ("summarize", Verb::Summarise),
    ("summarising", Verb::Summarise),
    ("summarizing", Verb::Summarise),
    ("compare", Verb::Compare),
    ("comparing", Verb::Compare),
    ("extract", Verb::Extract),
    ("extracting", Verb::Extract),
    ("listing", Verb::List),
    ("write", Verb::Write),
    ("writing", Verb::Write),
    ("save", Verb::Write),
    ("saving", Verb::Write),
    ("storing", Verb::Write),
    ("put", Verb::Write),
    ("putting", Verb::Write),
];

/// Verbs that are nouns elsewhere, so that they count only where a clause begins.
const CLAUSE_VERBS: &[(&str, Verb)] = &[
    ("open", Verb::Read),
    ("load", Verb::Read),
    ("go", Verb::Read),
    ("examine", Verb::Read),
    ("inspect", Verb::Read),
    ("study", Verb::Read),
    ("take", Verb::Read),
    ("use", Verb::Read),
    ("consider", Verb::Read),
    ("gather", Verb::Read),
    ("collect", Verb::Read),
    ("get", Verb::Fetch),
    ("visit", Verb::Fetch),
    ("browse", Verb::Fetch),
    ("pull", Verb::Fetch),
    ("list", Verb::List),
    ("enumerate", Verb::List),
    ("inventory", Verb::List),
    ("search", Verb::Search),
    ("find", Verb::Search),
    ("locate", Verb::Search),
    ("look", Verb::Search),
    ("scan", Verb::Search),
    ("which", Verb::Search),
    ("condense", Verb::Summarise),
    ("outline", Verb::Summarise),
    ("digest", Verb::Summarise),
    ("diff", Verb::Compare),
    ("contrast", Verb::Compare),
    ("quote", Verb::Extract),
    ("store", Verb::Write),
    ("output", Verb::Write),
    ("record", Verb::Write),
    ("export", Verb::Write),
    ("create", Verb::Write),
    ("produce", Verb::Write),
    ("generate", Verb::Write),
    ("make", Verb::Write),
    ("dump", Verb::Write),
    ("place", Verb::Write),
    ("give", Verb::Tell),
    ("show", Verb::Tell),
    ("tell", Verb::Tell),
    ("print", Verb::Tell),
    ("report", Verb::Tell),
    ("provide", Verb::Tell),
    ("what", Verb::Tell),
];

/// Work that this planner does not do, where a clause begins.
const FOREIGN_VERBS: &str = "\
    add analyse analyze answer append apply ask book build buy calculate call change check classify \
    clean clone code commit compile compute convert copy correct count debug delete deploy describe \
    design develop draw edit email evaluate execute explain fill fix format implement improve install \
    kill launch mail measure merge mirror modify monitor move order paint plan play post predict prove \
    publish push rank recommend refactor remind remove rename replace reply rewrite restart review run \
    schedule send sing solve sort split start stop submit sync test think train transcribe transform \
    translate tweet update upgrade upload verify watch";

const OPENERS: &str = "\
    and then to please also kindly you just now first next finally afterwards would could can will \
    should must let's lets me i we it them by after so or but secondly lastly aaos hello hi hey ok \
    okay";

const ADVERBS: &str = "please also then just now first next kindly finally";

/// Words that say: leave something out. The planner cannot promise that, so it refuses.
const NEGATIONS: &str = "\
    not don't dont never except excluding exclude excludes without unless ignore ignoring skip \
    skipping avoid no";

const LANGUAGES: &str = "\
    arabic chinese danish dutch finnish french german greek hebrew hindi italian japanese korean latin \
    norwegian polish portuguese russian spanish swedish turkish ukrainian";

const SUMMARY_NOUNS: &str = "\
    summary summaries overview digest synopsis abstract outline brief highlights takeaways gist tldr \
    tl;dr";
const COMPARE_NOUNS: &str = "comparison comparisons difference differences diff diffs differ versus vs";
const POINT_ADJECTIVES: &str = "key main important central essential salient";
const POINT_NOUNS: &str = "points point sentences sentence facts ideas findings information parts";

/// Objects of "write" that mean whatever was found.
const RESULT_NOUNS: &str = "\
    it them that this these those everything all what result results finding findings report note \
    notes answer output outcome file document markdown list lists listing inventory names match \
    matches hits lines line occurrences entries extract extracts quotes sentences sentence points \
    changes information info items comments matching filenames";

/// Objects of "list" that mean directory entries.
const FILE_NOUNS: &str = "\
    file files filenames names name directory directories folder folders content contents everything \
    entries entry documents document docs sources items what all tree subdirectories";

/// Words without content of their own in a pattern, a topic or an object.
const NOISE: &str = "\
    the a an all any every each some of its their my our your this that these those which where who is \
    are was do does me us it them out up word words string strings text pattern patterns phrase term \
    terms regex regexp regular expression literal occurrence occurrences instance instances line lines \
    match matches matching sentence sentences paragraph paragraphs passage passages part parts \
    information info everything anything facts details file files document documents page pages \
    content contents places mentions references usages uses say says only use";

const TRAILING_NOISE: &str = "comments comment items markers marker entries lines tags notes strings";

/// Words that introduce what is searched for.
const ARMING: &str = "\
    for containing contain contains mentioning mention mentions matching match including include \
    includes of with";
const TOPIC_TRIGGERS: &str = "about mentioning concerning regarding mention discussing";
const PLACE_PREPOSITIONS: &str = "in within under inside across throughout below at on through among";
const SOURCE_PREPOSITIONS: &str = "of from about for between using over regarding behind";
const TARGET_PREPOSITIONS: &str = "to into onto as -> → => > >>";

const EXTENSIONS: &str = "\
    md markdown txt text rst adoc org tex log csv tsv json jsonl yaml yml toml ini cfg conf xml html \
    htm rs py js ts tsx jsx c h cc cpp hpp go java kt rb php sh bash sql lua zig hs swift pdf docx \
    xlsx png jpg jpeg gif zip gz tar lock css diff patch";
const BARE_FILES: &str = "README LICENSE CHANGELOG NOTICE AUTHORS Makefile Dockerfile";
const NUMBERS: &str = "one two three four five six seven eight nine ten";

/// File extensions that a word before "files" stands for.
pub(super) fn extensions_of(word: &str) -> &'static [&'static str] {
    match word {
        "markdown" | "md" => &["md", "markdown"],
        "text" | "txt" => &["txt", "text"],
        "rust" => &["rs"],
        "python" => &["py"],
        "toml" => &["toml"],
        "yaml" => &["yaml", "yml"],
        "json" => &["json"],
        "log" => &["log"],
        "csv" => &["csv"],
        "html" => &["html", "htm"],
        _ => &[],
    }
}

fn lookup(table: &[(&str, Verb)], word: &str) -> Option<Verb> {
    table.iter().find(|(known, _)| *known == word).map(|(_, verb)| *verb)
}

/// The verb that `word` is, given whether a clause begins there.
pub(super) fn verb(word: &str, clause_start: bool) -> Option<Verb> {
    let plain = lookup(PLAIN_VERBS, word);
    if plain.is_none() && clause_start { lookup(CLAUSE_VERBS, word) } else { plain }
}

/// Most sentences that can be asked for.
const MAX_COUNT: usize = 30;

/// A count in digits or words, for "in five sentences".
pub(super) fn number(word: &str) -> Option<usize> {
    let spelled = NUMBERS.split(' ').position(|known| known == word).map(|index| index + 1);
    spelled.or_else(|| word.parse().ok().filter(|count| (1..=MAX_COUNT).contains(count)))
}

/// Whether a table, its words parted by spaces, holds `word`.
fn holds(table: &str, word: &str) -> bool {
    table.split_ascii_whitespace().any(|known| known == word)
}

macro_rules! membership {
    ($($(#[$doc:meta])* $name:ident in $table:ident;)+) => {
        $($(#[$doc])*
        pub(super) fn $name(word: &str) -> bool {
            holds($table, word)
        })+
    };
}

membership! {
    /// Work that is not offered.
    is_foreign_verb in FOREIGN_VERBS;
    /// A clause may begin after it.
    is_opener in OPENERS;
    /// An adverb between an opener and its verb.
    is_adverb in ADVERBS;
    /// Something is to be left out.
    is_negation in NEGATIONS;
    /// A language's name.
    is_language in LANGUAGES;
    /// A summary.
    is_summary in SUMMARY_NOUNS;
    /// A comparison.
    is_compare in COMPARE_NOUNS;
    /// An adjective that makes points a summary.
    is_point_adjective in POINT_ADJECTIVES;
    /// The noun after it.
    is_point in POINT_NOUNS;
    /// Whatever was found.
    is_result in RESULT_NOUNS;
    /// Directory entries.
    is_file_noun in FILE_NOUNS;
    /// A word without content.
    is_noise in NOISE;
    /// A noun that may follow what is searched for.
    is_trailing_noise in TRAILING_NOISE;
    /// Introduces what is searched for.
    is_arming in ARMING;
    /// Introduces a topic.
    is_topic_trigger in TOPIC_TRIGGERS;
    /// "in" and its like.
    is_place in PLACE_PREPOSITIONS;
    /// "of", "from" and their like.
    is_source in SOURCE_PREPOSITIONS;
    /// "to", "into" and their like.
    is_target in TARGET_PREPOSITIONS;
    /// A file extension that makes a bare word a path.
    is_extension in EXTENSIONS;
    /// A file that needs no extension.
    is_bare_file in BARE_FILES;
}

/// Whether a phrase ends at this word: any preposition.
pub(super) fn is_preposition(word: &str) -> bool {
    is_place(word) || is_source(word) || is_target(word)
}
