/* A VA driver for tests that cannot be initialised; preloaded before the real libva. */
void *vaGetDisplayDRM(int fd) { static int display; return &display; }
int vaDisplayIsValid(void *display) { return 1; }
int vaInitialize(void *display, int *major, int *minor) { return 0x12; }
const char *vaErrorStr(int error) { return "the fake VA driver sleeps"; }
int vaTerminate(void *display) { return 0; }
void *vaSetErrorCallback(void *display, void *callback, void *user) { return 0; }
void *vaSetInfoCallback(void *display, void *callback, void *user) { return 0; }
int vaSetDriverName(void *display, char *name) { return 0; }
