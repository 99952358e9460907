/* An NVENC library for tests whose sessions are all taken: every function of its list, whatever the
   arguments, answers NV_ENC_ERR_OUT_OF_MEMORY. */
static int taken(void) { return 10; }
int NvEncodeAPIGetMaxSupportedVersion(unsigned *v) { *v = (99u << 4); return 0; }
int NvEncodeAPICreateInstance(char *list) { void **f = (void **)(list + 8); for (int i = 0; i < 40; i++) f[i] = taken; return 0; }
