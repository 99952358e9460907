//! P8: a job's own words name no file and give libav nothing that does not end.

use crate::kit::*;
use plexbeam_api::{JobSpec, Kind, job::CodecSpec};
use plexbeam_worker::plan;
use rustix::fs::inotify;
use std::{mem::MaybeUninit, path::Path};

/// Tells whether a file was opened since.
struct Watch(rustix::fd::OwnedFd);

impl Watch {
    fn on(path: &Path) -> Self {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&fd, path, inotify::WatchFlags::OPEN).unwrap();
        Watch(fd)
    }

    fn saw_an_open(&self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        inotify::Reader::new(&self.0, &mut buffer).next().is_ok()
    }
}

type Change = Box<dyn Fn(&mut JobSpec)>;

fn video(text: String) -> Change {
    Box::new(move |spec| spec.graphs[0] = format!("[0:0]{text}[1]"))
}

fn sound(text: String) -> Change {
    Box::new(move |spec| spec.graphs[1] = format!("[0:1]{text}[2]"))
}

fn option(stream: usize, key: &'static str, value: String) -> Change {
    Box::new(move |spec| {
        if let CodecSpec::Encode { options, .. } = &mut spec.outputs[0].streams[stream].codec {
            options.retain(|(k, _)| k != key);
            options.push((key.to_owned(), value.clone()));
        }
    })
}

fn muxer(key: &'static str, value: String) -> Change {
    Box::new(move |spec| {
        let own = (key.to_owned(), value.clone());
        spec.outputs[0].muxer_options.push(own);
    })
}

/// Jobs that would read `secret`, write `target`, or run for ever.
fn hostile(secret: &str, target: &str) -> Vec<Change> {
    let mut all: Vec<Change> = Vec::new();
    for text in [
        // Filters that open files.
        format!("movie=filename={secret}"),
        format!("null,movie={secret},null"),
        format!("subtitles=filename={secret}"),
        format!("ass={secret}"),
        format!("subtitles=x.srt:fonts_dir={secret}"),
        format!("drawtext=textfile={secret}"),
        format!("drawtext=text=x:fontfile={secret}"),
        format!("sendcmd=f={secret}"),
        format!("lut3d=file={secret}"),
        format!("haldclut={secret}"),
        format!("metadata=mode=print:file={target}"),
        format!("psnr=stats_file={target}"),
        format!("signature=filename={target}"),
        // Values that begin another filter once libav has taken the escapes away.
        format!(r"format=pix_fmts=yuv420p\,movie={secret}"),
        format!(r"format='yuv420p,movie={secret}'"),
        format!(r"format=yuv420p\\,movie={secret}"),
        format!(r"scale_cuda=w=160:h=90:format='nv12,movie={secret}'"),
        format!(r"scale=160:90:flags='bicubic,movie={secret}'"),
        format!(r"scale=160:90:flags=bicubic\\:movie={secret}"),
        format!("fps='25,movie={secret}'"),
        format!("vpp_qsv=framerate='25,movie={secret}'"),
        format!("tonemap=tonemap=hable:desat='0,movie={secret}'"),
        format!("tonemap=tonemap=hable:format='p010,movie={secret}'"),
        format!("pad=w=320:h=180:color='black,movie={secret}'"),
        format!("setsar=1;[0:0]movie={secret}"),
        format!("crop=160:90[x]movie={secret}"),
        // Evaluation that does not end, and pictures without end.
        "scale=w='while(1,1)':h=90".to_owned(),
        "scale=w=while(1\\,1):h=90".to_owned(),
        "crop=w=160:h=90:x='whi le(1,1)'".to_owned(),
        "pad=w='taylor(taylor(taylor(1,1),1),1)':h=90".to_owned(),
        "hqdn3d=luma_spatial='while(1,1)'".to_owned(),
        "hqdn3d=enable='while(1,1)'".to_owned(),
        "fps=fps=1e9".to_owned(),
        "fps=25:start_time=-1e9".to_owned(),
    ] {
        all.push(video(text));
    }
    for text in [
        format!("amovie={secret}"),
        format!("aresample=ochl='stereo',amovie={secret},anull='x'"),
        format!(r"aresample=ochl=stereo\\\,amovie={secret}"),
        format!(r"aresample=och=2:osr=48000\\\,amovie={secret}"),
        format!("aformat=channel_layouts='stereo,amovie={secret}'"),
        format!("aformat=sample_fmts='fltp,amovie={secret}'"),
        format!("pan='stereo|c0=c0,amovie={secret}'"),
        format!("ametadata=mode=print:file={target}"),
        format!("arnndn=m={secret}"),
        format!("asendcmd=f={secret}"),
        format!("sofalizer=sofa={secret}"),
        "volume=volume='while(1,1)'".to_owned(),
        "aresample=async='while(1,1)'".to_owned(),
    ] {
        all.push(sound(text));
    }
    for words in [
        format!("stats={target}"),
        format!("pass=1:stats={target}"),
        format!(r"pass=1:sta\ts={target}"),
        format!("pass=1:'stats'={target}"),
        format!("subme=0:qpfile={secret}"),
        format!("cqm={secret}"),
        format!("cqmfile={secret}"),
        format!("dump-yuv={target}"),
        format!("dump_yuv={target}"),
        format!("tcfile-out={target}"),
        format!("zones=0,9,stats={target}"),
        // Writes `x264_2pass.log` into the working directory.
        "pass=1".to_owned(),
    ] {
        for key in ["x264opts", "x264-params", "x265-params"] {
            all.push(option(0, key, words.clone()));
        }
    }
    for (key, value) in [
        ("stats", target.to_owned()),
        ("passlogfile", target.to_owned()),
        ("flags", "+pass1".to_owned()),
        ("crf", "while(1,1)".to_owned()),
        ("threads", "1000000".to_owned()),
    ] {
        all.push(option(0, key, value));
    }
    for (key, value) in [
        ("channel_layout", format!("stereo,amovie={secret}")),
        ("ar", format!("48000,amovie={secret}")),
        ("b", "while(1,1)".to_owned()),
    ] {
        all.push(option(1, key, value));
    }
    for (key, value) in [
        ("max_delay", "while(1,1)".to_owned()),
        ("hls_key_info_file", secret.to_owned()),
        ("fflags", format!("+genpts:{secret}")),
    ] {
        all.push(muxer(key, value));
    }
    for place in ["while(1,1)", "root(1,1)", "print(1)"] {
        all.push(Box::new(move |spec| {
            spec.graphs[0] = format!("[0:0][0:1]overlay=x='{place}':y=0[1]");
        }));
    }
    all
}

#[test]
fn a_job_names_no_file_and_nothing_that_does_not_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 1, &[]);
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "1\n00:00:00,000 --> 00:00:09,000\nsecret\n").unwrap();
    let target = dir.path().join("target");
    let watch = Watch::on(&secret);
    std::fs::read(&secret).unwrap();
    assert!(watch.saw_an_open(), "the watch itself");
    let watch = Watch::on(&secret);
    let good = job(&path, None, dash(1), 3.0);
    plan::check(&good).unwrap();
    let changes = hostile(secret.to_str().unwrap(), target.to_str().unwrap());
    for change in changes {
        let mut spec = good.clone();
        change(&mut spec);
        let shown = format!("{:?} {:?}", spec.graphs, spec.outputs[0]);
        let refusal = plan::check(&spec).expect_err(&shown);
        assert!(
            matches!(refusal.kind, Kind::Unsupported | Kind::InvalidArgument),
            "{refusal} for {shown}"
        );
        // The child, too, should it ever be given such a job.
        assert!(try_run(&spec).is_err(), "{shown}");
        assert!(!watch.saw_an_open(), "read the secret: {shown}");
        assert!(!target.exists(), "wrote: {shown}");
        assert!(!Path::new("x264_2pass.log").exists(), "wrote: {shown}");
    }
}

/// Options of another vendor's filters are not looked at, so that they name nothing either.
#[test]
fn what_is_read_as_intent_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 1, &[]);
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "//!HOOK LUMA").unwrap();
    let watch = Watch::on(&secret);
    let secret = secret.to_str().unwrap();
    for text in [
        format!("libplacebo=custom_shader_path={secret}"),
        format!("scale_cuda=w=160:h=90:passthrough={secret}"),
    ] {
        let mut spec = job(&path, None, dash(1), 3.0);
        video(text)(&mut spec);
        run(&spec);
        assert!(!watch.saw_an_open(), "{:?}", spec.graphs);
    }
}

/// What real lines say goes through.
#[test]
fn plain_words_pass() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 1, &[]);
    for change in [
        video("scale=w='trunc(min(max(iw\\,ih*dar)\\,160)/2)*2':h='trunc(ow/dar/2)*2'".to_owned()),
        video("scale=-2:90:flags=fast_bilinear".to_owned()),
        video("scale=-1:90:fast_bilinear,setsar=1/1".to_owned()),
        video("pad=max(160\\,iw):max(90\\,ih):(ow-iw)/2:(oh-ih)/2:black,fps=24000/1001".to_owned()),
        video("crop=160:90,hqdn3d=4:3:6:4.5,unsharp=5:5:1.0".to_owned()),
        video("setparams=color_primaries=bt709:color_trc=bt709:colorspace=bt709".to_owned()),
        video("yadif=0:-1:0,format=yuv420p|nv12".to_owned()),
        sound("pan=stereo|FL=0.5*FC+0.7*FL|FR=0.5*FC+0.7*FR,volume=2".to_owned()),
        sound("volume=-3dB,loudnorm=I=-16:LRA=11:TP=-1.5,alimiter=limit=0.9".to_owned()),
        sound(
            "aresample=48000:async=1,aformat=sample_fmts=fltp:channel_layouts=stereo|mono"
                .to_owned(),
        ),
        sound("acompressor=threshold=0.1:ratio=4,dynaudnorm=f=250,atempo=1.0".to_owned()),
        option(0, "flags", "+cgop".to_owned()),
        option(1, "channel_layout", "5.1(side)".to_owned()),
        muxer("output_ts_offset", "10".to_owned()),
    ] {
        let mut spec = job(&path, None, dash(1), 3.0);
        change(&mut spec);
        if let Err(problem) = plan::check(&spec) {
            panic!("{problem}: {:?} {:?}", spec.graphs, spec.outputs[0]);
        }
        let made = try_run(&spec).unwrap_or_else(|p| panic!("{p}: {:?}", spec.graphs));
        assert_eq!(made.media(Some(0)).len(), 1);
    }
}
