//! What a job's words may be before libav reads them (P8).
//!
//! libav's filter, option and encoder strings can name files (`movie=`, `stats=`, `cqm=`), split at
//! characters that stand in a value, and evaluate numbers as expressions that may loop. So nothing
//! of a job reaches them as it stood: options are of the tables below, values of a checked form, and
//! the text is written anew. What is not there is refused with its name.

use super::graph::{Filter, escape};
use crate::libav;
use plexbeam_api::{Kind, Problem};

/// Form of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A number, name, ratio, colour or a list of flags: [`is_word`].
    Word,
    /// [`bounded`] arithmetic.
    Expression,
    /// [`is_rate`].
    Rate,
    /// A channel layout that libav knows.
    Layout,
    /// Some of them, separated by `|`.
    Layouts,
    /// Pixel formats in memory that libav knows, separated by `|`.
    Pixels,
    /// `pan`'s own language: a layout, then gains.
    Mix,
}

use Form::{Expression, Layout, Layouts, Mix, Pixels, Rate, Word};

/// Names of an option, the first of them the one that is written, and the form of its value. In the
/// order in which libav takes options without a name.
type Options = &'static [(&'static [&'static str], Form)];

/// Filters whose text comes from the job, with their options. None of these names a file.
const FILTERS: &[(&str, Options)] = &[
    ("null", &[]),
    ("vflip", &[]),
    ("hflip", &[]),
    (
        "scale",
        &[
            (&["w", "width"], Expression),
            (&["h", "height"], Expression),
            (&["flags"], Word),
            (&["interl"], Word),
            (&["size", "s"], Word),
            (&["in_color_matrix"], Word),
            (&["out_color_matrix"], Word),
            (&["in_range"], Word),
            (&["out_range"], Word),
            (&["in_v_chr_pos"], Word),
            (&["in_h_chr_pos"], Word),
            (&["out_v_chr_pos"], Word),
            (&["out_h_chr_pos"], Word),
            (&["force_original_aspect_ratio"], Word),
            (&["force_divisible_by"], Word),
            (&["param0"], Word),
            (&["param1"], Word),
            (&["eval"], Word),
        ],
    ),
    // A start time of its own would make pictures without end, before the title's first.
    (
        "fps",
        &[
            (&["fps"], Rate),
            (&["round"], Word),
            (&["eof_action"], Word),
        ],
    ),
    ("setsar", ASPECT),
    ("setdar", ASPECT),
    (
        "crop",
        &[
            (&["w", "out_w"], Expression),
            (&["h", "out_h"], Expression),
            (&["x"], Expression),
            (&["y"], Expression),
            (&["keep_aspect"], Word),
            (&["exact"], Word),
        ],
    ),
    (
        "pad",
        &[
            (&["w", "width"], Expression),
            (&["h", "height"], Expression),
            (&["x"], Expression),
            (&["y"], Expression),
            (&["color"], Word),
            (&["eval"], Word),
            (&["aspect"], Word),
        ],
    ),
    ("transpose", &[(&["dir"], Word), (&["passthrough"], Word)]),
    (
        "hqdn3d",
        &[
            (&["luma_spatial"], Word),
            (&["chroma_spatial"], Word),
            (&["luma_tmp"], Word),
            (&["chroma_tmp"], Word),
        ],
    ),
    (
        "unsharp",
        &[
            (&["lx", "luma_msize_x"], Word),
            (&["ly", "luma_msize_y"], Word),
            (&["la", "luma_amount"], Word),
            (&["cx", "chroma_msize_x"], Word),
            (&["cy", "chroma_msize_y"], Word),
            (&["ca", "chroma_amount"], Word),
        ],
    ),
    (
        "setparams",
        &[
            (&["field_mode"], Word),
            (&["range"], Word),
            (&["color_primaries"], Word),
            (&["color_trc"], Word),
            (&["colorspace"], Word),
        ],
    ),
    (
        "zscale",
        &[
            (&["w", "width"], Expression),
            (&["h", "height"], Expression),
            (&["size", "s"], Word),
            (&["dither", "d"], Word),
            (&["filter", "f"], Word),
            (&["range", "r", "out_range"], Word),
            (&["primaries", "p"], Word),
            (&["transfer", "t"], Word),
            (&["matrix", "m"], Word),
            (&["rangein", "rin", "in_range"], Word),
            (&["primariesin", "pin"], Word),
            (&["transferin", "tin"], Word),
            (&["matrixin", "min"], Word),
            (&["chromal", "c"], Word),
            (&["chromalin", "cin"], Word),
            (&["npl"], Word),
            (&["agamma"], Word),
            (&["param_a"], Word),
            (&["param_b"], Word),
        ],
    ),
    (
        "colorspace",
        &[
            (&["all"], Word),
            (&["space"], Word),
            (&["range"], Word),
            (&["primaries"], Word),
            (&["trc"], Word),
            (&["format"], Pixels),
            (&["fast"], Word),
            (&["dither"], Word),
            (&["wpadapt"], Word),
            (&["iall"], Word),
            (&["ispace"], Word),
            (&["irange"], Word),
            (&["iprimaries"], Word),
            (&["itrc"], Word),
        ],
    ),
    ("setfield", &[(&["mode"], Word)]),
    ("fieldorder", &[(&["order"], Word)]),
    ("anull", &[]),
    (
        "aresample",
        &[
            (&["sample_rate"], Word),
            (&["isr", "in_sample_rate"], Word),
            (&["osr", "out_sample_rate"], Word),
            (&["ochl", "out_chlayout"], Layout),
            (&["ocl", "out_channel_layout"], Layout),
            (&["och", "out_channel_count"], Word),
            (&["osf", "out_sample_fmt"], Word),
            (&["tsf", "internal_sample_fmt"], Word),
            (&["async"], Word),
            (&["first_pts"], Word),
            (&["min_comp"], Word),
            (&["min_hard_comp"], Word),
            (&["max_soft_comp"], Word),
            (&["comp_duration"], Word),
            (&["clev", "center_mix_level"], Word),
            (&["slev", "surround_mix_level"], Word),
            (&["lfe_mix_level"], Word),
            (&["rmvol", "rematrix_volume"], Word),
            (&["rematrix_maxval"], Word),
            (&["matrix_encoding"], Word),
            (&["dither_method"], Word),
            (&["dither_scale"], Word),
            (&["resampler"], Word),
            (&["filter_size"], Word),
            (&["phase_shift"], Word),
            (&["linear_interp"], Word),
            (&["exact_rational"], Word),
            (&["cutoff", "resample_cutoff"], Word),
            (&["precision"], Word),
            (&["cheby"], Word),
            (&["filter_type"], Word),
            (&["kaiser_beta"], Word),
            (&["output_sample_bits"], Word),
            (&["flags", "swr_flags"], Word),
        ],
    ),
    (
        "aformat",
        &[
            (&["sample_fmts", "f"], Word),
            (&["sample_rates", "r"], Word),
            (&["channel_layouts", "cl"], Layouts),
        ],
    ),
    (
        "volume",
        &[
            (&["volume"], Expression),
            (&["precision"], Word),
            (&["eval"], Word),
            (&["replaygain"], Word),
            (&["replaygain_preamp"], Word),
            (&["replaygain_noclip"], Word),
        ],
    ),
    ("pan", &[(&["args"], Mix)]),
    (
        "channelmap",
        &[(&["map"], Word), (&["channel_layout"], Layout)],
    ),
    (
        "loudnorm",
        &[
            (&["I", "i"], Word),
            (&["LRA", "lra"], Word),
            (&["TP", "tp"], Word),
            (&["measured_I", "measured_i"], Word),
            (&["measured_LRA", "measured_lra"], Word),
            (&["measured_TP", "measured_tp"], Word),
            (&["measured_thresh"], Word),
            (&["offset"], Word),
            (&["linear"], Word),
            (&["dual_mono"], Word),
            (&["print_format"], Word),
        ],
    ),
    (
        "dynaudnorm",
        &[
            (&["framelen", "f"], Word),
            (&["gausssize", "g"], Word),
            (&["peak", "p"], Word),
            (&["maxgain", "m"], Word),
            (&["targetrms", "r"], Word),
            (&["coupling", "n"], Word),
            (&["correctdc", "c"], Word),
            (&["altboundary", "b"], Word),
            (&["compress", "s"], Word),
            (&["threshold", "t"], Word),
            (&["overlap", "o"], Word),
        ],
    ),
    (
        "acompressor",
        &[
            (&["level_in"], Word),
            (&["mode"], Word),
            (&["threshold"], Word),
            (&["ratio"], Word),
            (&["attack"], Word),
            (&["release"], Word),
            (&["makeup"], Word),
            (&["knee"], Word),
            (&["link"], Word),
            (&["detection"], Word),
            (&["level_sc"], Word),
            (&["mix"], Word),
        ],
    ),
    (
        "alimiter",
        &[
            (&["level_in"], Word),
            (&["level_out"], Word),
            (&["limit"], Word),
            (&["attack"], Word),
            (&["release"], Word),
            (&["asc"], Word),
            (&["asc_level"], Word),
            (&["level"], Word),
            (&["latency"], Word),
        ],
    ),
    ("atempo", &[(&["tempo"], Word)]),
];

const ASPECT: Options = &[
    (&["r", "ratio", "sar", "dar"], Expression),
    (&["max"], Word),
];

/// A filter of the job with its options named and its values checked.
pub(super) fn checked(filter: &Filter) -> Result<Vec<(&'static str, String)>, Problem> {
    let Some((name, options)) = FILTERS.iter().find(|(name, _)| *name == filter.name) else {
        return Err(super::operation::unsupported(&filter.name));
    };
    let mut positions = options.iter();
    let mut out = Vec::new();
    for (key, value) in filter.arguments() {
        let found = match key.as_str() {
            "" => positions.next(),
            key => options.iter().find(|(names, _)| names.contains(&key)),
        };
        let Some((names, form)) = found else {
            let what = if key.is_empty() { &value } else { &key };
            return Err(refused(format!(
                "filter `{name}`: the option `{}` is not known",
                shown(what)
            )));
        };
        if value.is_empty() {
            continue;
        }
        check(*form, &value).map_err(|why| {
            refused(format!(
                "filter `{name}`: `{}` for `{}` {why}",
                shown(&value),
                names[0]
            ))
        })?;
        out.push((names[0], value));
    }
    Ok(out)
}

/// Filter text for libav of [`checked`] options.
pub(super) fn text(name: &str, options: &[(&str, String)]) -> String {
    let args: Vec<_> = options
        .iter()
        .map(|(key, value)| format!("{key}={}", escape(value)))
        .collect();
    Filter::new(name, args.join(":")).text()
}

/// `Err`: what is wrong, to follow the value in a sentence.
pub(super) fn check(form: Form, value: &str) -> Result<(), &'static str> {
    let all = |test: fn(&str) -> bool| value.split('|').all(test);
    let (good, why) = match form {
        Word => (is_word(value), "is no number and no plain name"),
        Expression => (
            bounded(value),
            "is no arithmetic that is sure to come to an end",
        ),
        Rate => (is_rate(value), "is no frame rate"),
        Layout => (is_layout(value), "is no channel layout"),
        Layouts => (all(is_layout), "is no list of channel layouts"),
        Pixels => (all(is_pixels), "is no pixel format of libav"),
        Mix => (is_mix(value), "is no mix of channels"),
    };
    if good { Ok(()) } else { Err(why) }
}

/// A refusal of something in a graph.
pub(super) fn refused(detail: String) -> Problem {
    Problem::new(Kind::Unsupported, detail).at("graphs")
}

/// The start of a text for a message.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn made_of(text: &str, most: usize, others: &[u8]) -> bool {
    (1..=most).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || others.contains(&b))
}

/// A number, name, ratio, colour or list of flags: nothing that libav evaluates, splits or opens.
/// (A bare name is no path: options that take one are in no table.)
pub(super) fn is_word(text: &str) -> bool {
    made_of(text, 128, b"_.+-/|,#@") && !text.contains("//") && !text.starts_with(['/', '.'])
        || text.starts_with('.') && text.parse::<f64>().is_ok()
}

/// A plain number.
pub(super) fn is_number(text: &str) -> bool {
    text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Pictures per second: a number, a ratio, or one of `fps`'s names.
pub(super) fn is_rate(text: &str) -> bool {
    const NAMES: &[&str] = &["ntsc", "pal", "film", "ntsc_film", "source_fps"];
    let number = |text: &str| text.parse::<f64>().ok();
    let rate = match text.split_once('/') {
        Some((over, under)) => number(over).zip(number(under)).map(|(a, b)| a / b),
        None => number(text),
    };
    NAMES.contains(&text) || rate.is_some_and(|rate| rate > 0.0 && rate <= 1000.0)
}

/// A channel layout by one of libav's spellings: `stereo`, `5.1(side)`, `FL+FR`.
pub(super) fn is_layout(text: &str) -> bool {
    made_of(text, 64, b".()+-_") && libav::is_channel_layout(text)
}

/// A pixel format of pictures in memory.
pub(super) fn is_pixels(text: &str) -> bool {
    made_of(text, 32, b"_") && libav::is_memory_format(text)
}

/// `5.1|FL=0.5*c0+0.2*c1|FR<c2`.
fn is_mix(text: &str) -> bool {
    let mut parts = text.split('|');
    parts.next().is_some_and(is_layout)
        && parts.all(|part| made_of(part, 128, b"_.+-*=<> ") && part.contains(['=', '<']))
}

/// Functions of libav's expressions that take as long as their arguments do. Not among them: `while`,
/// `root` and `taylor` repeat, `print` writes.
const FUNCTIONS: &[&str] = &[
    "", "abs", "between", "bitand", "bitor", "ceil", "clip", "eq", "exp", "floor", "gcd", "gt",
    "gte", "hypot", "if", "ifnot", "isinf", "isnan", "ld", "lerp", "log", "lt", "lte", "max",
    "min", "mod", "not", "pow", "round", "sgn", "sqrt", "squish", "st", "trunc",
];

/// Arithmetic that libav evaluates once through, from left to right, in a time bounded by its
/// length.
pub(super) fn bounded(expression: &str) -> bool {
    if !made_of(expression, 256, b"_.+-*/(),;^ ") {
        return false;
    }
    // libav takes blanks away before it reads, also within a name.
    let mut name = String::new();
    for ch in expression.chars().filter(|ch| *ch != ' ') {
        match ch {
            '(' if !FUNCTIONS.contains(&name.as_str()) => return false,
            ch if ch.is_ascii_alphanumeric() || ch == '_' || ch == '.' => {
                name.push(ch);
                continue;
            }
            _ => {}
        }
        name.clear();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::hw::filter_knows;

    #[test]
    fn every_option_exists_in_this_libavfilter_under_all_its_names() {
        for (filter, options) in FILTERS {
            // Ratios are called after the filter.
            let own = |name: &&&str| match *filter {
                "setsar" => **name != "dar",
                "setdar" => **name != "sar",
                _ => true,
            };
            for name in options.iter().flat_map(|(names, _)| *names).filter(own) {
                assert!(filter_knows(filter, name), "{filter} has no option {name}");
            }
        }
    }

    #[test]
    fn expressions_that_may_not_end_or_speak_are_refused() {
        for bad in [
            "while(1,1)",
            "whi le (1,1)",
            "1+w+while(1,1)",
            "root(1,9)",
            "taylor(taylor(1,9),9)",
            "print(1)",
            "0while(1,1)",
            "random(1)'",
            "a:b",
            "a[b",
            "",
        ] {
            assert!(!bounded(bad), "{bad}");
        }
        for good in [
            "1280",
            "-2",
            "trunc(min(max(iw,ih*dar),1920)/2)*2",
            "(W-w)/2",
            "main_h - overlay_h - 10",
            "if(gt(a,16/9),1280,-2)",
            "0.5dB",
            "hd720",
        ] {
            assert!(bounded(good), "{good}");
        }
    }

    #[test]
    fn values_are_names_that_libav_knows() {
        for layout in ["stereo", "5.1(side)", "FL+FR", "7.1", "mono"] {
            assert!(is_layout(layout), "{layout}");
        }
        for layout in ["", "quux", "stereo',amovie=/x,aformat='", "5.1|stereo"] {
            assert!(!is_layout(layout), "{layout}");
        }
        for format in ["yuv420p", "p010", "nv12", "yuv420p10le", "bgra", "gray"] {
            assert!(is_pixels(format), "{format}");
        }
        for format in ["cuda", "vaapi", "yuv420p,movie=/x", "nonsense", ""] {
            assert!(!is_pixels(format), "{format}");
        }
        for rate in ["23.975999999999999", "30000/1001", "ntsc", "0.5"] {
            assert!(is_rate(rate), "{rate}");
        }
        for rate in ["0", "-1", "1/0", "nan", "1e9", "while(1,1)", ""] {
            assert!(!is_rate(rate), "{rate}");
        }
    }
}
