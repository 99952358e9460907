//! What manifests and PMS want to know of streams.

use super::Ready;
use crate::libav::{CodecId, MediaType, Params, StreamInfo, codec_name};
use plexbeam_api::{
    event::InputStream,
    segment::{MediaKind, Rendition},
};

/// Our kind of a libav media type.
pub(super) fn media_kind(media: MediaType) -> MediaKind {
    match media {
        MediaType::AVMEDIA_TYPE_VIDEO => MediaKind::Video,
        MediaType::AVMEDIA_TYPE_AUDIO => MediaKind::Audio,
        MediaType::AVMEDIA_TYPE_SUBTITLE => MediaKind::Subtitle,
        MediaType::AVMEDIA_TYPE_ATTACHMENT => MediaKind::Attachment,
        _ => MediaKind::Data,
    }
}

/// The fields of PMS's `streamDetail` for a stream.
pub(super) fn input_stream(input: u32, stream: &StreamInfo) -> InputStream {
    let params = &stream.params;
    let media = media_kind(params.media_type());
    let video = media == MediaKind::Video;
    let audio = media == MediaKind::Audio;
    let (width, height) = params.size();
    let rate = stream.frame_rate;
    InputStream {
        input,
        index: stream.index as u32,
        id: stream.id,
        media,
        codec: codec_name(params.codec_id()),
        bit_rate: Some(params.bit_rate()).filter(|b| *b > 0),
        profile: params.profile_name(),
        level: Some(params.level()).filter(|l| *l > 0 && video),
        language: stream.tag("language").map(str::to_owned),
        attached_picture: stream.is_attached_picture(),
        default: stream.is_default(),
        width: video.then_some(width),
        height: video.then_some(height),
        interlaced: video.then(|| params.is_interlaced()),
        sar: params.sar().filter(|_| video),
        frame_rate: (video && rate.num > 0 && rate.den > 0)
            .then(|| f64::from(rate.num) / f64::from(rate.den)),
        closed_captions: false,
        channels: audio.then(|| params.channels()),
        layout: audio.then(|| params.layout()),
        sample_rate: audio.then(|| params.sample_rate()),
        bit_depth: audio.then(|| params.bit_depth()).filter(|d| *d > 0),
    }
}

/// What a manifest says of a stream. `time_scale` is the muxer's.
pub(super) fn rendition(ready: &Ready, time_scale: u32) -> Rendition {
    let params = &ready.params;
    let video = ready.media == MediaKind::Video;
    let audio = ready.media == MediaKind::Audio;
    let (width, height) = params.size();
    let rate = ready.frame_rate;
    Rendition {
        media: ready.media,
        codecs: codecs(params),
        bandwidth: params.bit_rate(),
        time_scale,
        language: ready
            .metadata
            .iter()
            .find(|(k, _)| k == "language")
            .map(|(_, v)| v.clone()),
        width: video.then_some(width),
        height: video.then_some(height),
        sar: params.sar().filter(|_| video),
        frame_rate: (video && rate.num > 0 && rate.den > 0)
            .then_some((rate.num as u32, rate.den as u32)),
        sample_rate: audio.then(|| params.sample_rate()),
        channels: audio.then(|| params.channels()),
    }
}

/// RFC 6381 codecs string. HEVC stays the bare sample entry, as Plex's own manifests have it.
fn codecs(params: &Params) -> String {
    match params.codec_id() {
        CodecId::AV_CODEC_ID_H264 => {
            let [profile, constraints, level] = h264_profile(params.extradata()).unwrap_or([
                params.profile().max(0) as u8,
                0,
                params.level().max(0) as u8,
            ]);
            format!("avc1.{profile:02x}{constraints:02x}{level:02x}")
        }
        CodecId::AV_CODEC_ID_HEVC => "hev1".to_owned(),
        CodecId::AV_CODEC_ID_AV1 => "av01".to_owned(),
        CodecId::AV_CODEC_ID_VP9 => "vp09".to_owned(),
        CodecId::AV_CODEC_ID_AAC => {
            // The audio object type is the profile number plus one (ISO 14496-3 table 1.17).
            format!("mp4a.40.{}", params.profile().max(1) + 1)
        }
        CodecId::AV_CODEC_ID_MP3 => "mp4a.40.34".to_owned(),
        CodecId::AV_CODEC_ID_AC3 => "ac-3".to_owned(),
        CodecId::AV_CODEC_ID_EAC3 => "ec-3".to_owned(),
        CodecId::AV_CODEC_ID_OPUS => "opus".to_owned(),
        CodecId::AV_CODEC_ID_FLAC => "flac".to_owned(),
        other => codec_name(other),
    }
}

/// profile_idc, constraint flags and level_idc of an H.264 configuration: out of an `avcC` record
/// (ISO 14496-15 5.3.3.1) or of the first sequence parameter set of an Annex B header.
fn h264_profile(extradata: &[u8]) -> Option<[u8; 3]> {
    if let [1, profile, constraints, level, ..] = extradata {
        return Some([*profile, *constraints, *level]);
    }
    let at = extradata
        .windows(4)
        .position(|w| w[..3] == [0, 0, 1] && w[3] & 0x1f == 7)?;
    extradata.get(at + 4..at + 7)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h264_configuration_in_both_forms() {
        assert_eq!(
            h264_profile(&[1, 0x64, 0, 0x1f, 0xff]),
            Some([0x64, 0, 0x1f])
        );
        let annex_b = [0, 0, 0, 1, 0x67, 0x4d, 0x40, 0x29, 0x9a];
        assert_eq!(h264_profile(&annex_b), Some([0x4d, 0x40, 0x29]));
        assert_eq!(h264_profile(&[0, 0, 1]), None);
    }
}
