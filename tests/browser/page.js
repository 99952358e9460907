// What both pages share: steps with deadlines, and the verdict.

const video = document.querySelector('video');
const verdict = { errors: [], steps: [] };

video.addEventListener('error', () => {
  verdict.errors.push(`video: ${video.error.code} ${video.error.message}`);
});

// Resolves when `test()` holds; fails with the step's name after 30 s or at an error of the video.
function until(step, test) {
  const end = performance.now() + 30000;
  return new Promise((resolve, reject) => {
    const look = () => {
      if (test()) {
        verdict.steps.push(step);
        resolve();
      } else if (video.error || performance.now() > end) {
        reject(new Error(`not reached: ${step}; at ${video.currentTime}, ready ${video.readyState}`));
      } else {
        setTimeout(look, 20);
      }
    };
    look();
  });
}

function ranges(buffered) {
  return Array.from({ length: buffered.length }, (_, n) => [buffered.start(n), buffered.end(n)]);
}

// Runs the page's play and sends what came out.
async function judge(play) {
  try {
    await play();
  } catch (error) {
    verdict.errors.push(String(error));
  }
  verdict.width = video.videoWidth;
  verdict.height = video.videoHeight;
  verdict.frames = video.getVideoPlaybackQuality().totalVideoFrames;
  await fetch('/verdict', { method: 'POST', body: JSON.stringify(verdict) });
}
