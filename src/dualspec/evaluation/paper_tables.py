"""What the paper prints in Tables I to III, as data: https://arxiv.org/abs/2502.18952, section VI."""

NUM_TEST_CLIPS = 5_000
QUALITY = ("fd", "kl", "inception_score", "azimuth_mae_deg", "azimuth_accuracy")
"""What the columns of Tables II and III hold after their first ones; accuracy as a share."""

TABLE_1: dict[str, tuple[float, ...]] = {
    "mel_base": (25.42, 0.841, 10.42, 0.590, 11.18, 27.93, 0.3002),
    "stft_base": (31.93, 0.929, 10.37, 0.461, 12.94, 5.32, 0.9550),
    "dualspec_d": (27.88, 0.853, 10.66, 1.031, 10.86, 7.15, 0.9332),
}
"""PSNR and SSIM, then `QUALITY`, of the VAEs that these variants use alone: Mel-VAE, STFT-VAE, Dual-VAE."""

TABLE_2: dict[str, tuple[float | None, ...]] = {
    "audioldm": (809, 452, 0.36, 21.45, 2.470, 7.194, None, None),
    "audioldm2": (1034, 537, 0.71, 29.19, 2.425, 8.554, None, None),
    "tango": (1317, 646, 0.53, 27.40, 2.919, 9.572, None, None),
    "tango2": (1317, 646, 0.52, 31.64, 2.910, 9.835, None, None),
    "mel_base": (1485, 679, 0.65, 15.47, 2.058, 10.691, 32.28, 0.2454),
    "stft_base": (1262, 848, 0.97, 24.72, 2.388, 7.578, 9.56, 0.8478),
    "dualspec": (1541, 1145, 1.21, 23.87, 2.376, 7.590, 13.16, 0.7902),
    "dualspec_d": (1262, 887, 1.06, 21.70, 2.384, 6.152, 17.32, 0.7601),
    "dualspec_p": (1373, 1417, 1.82, 20.49, 2.322, 10.571, 10.79, 0.8386),
}
"""Parameters in millions, GFLOPs and inference seconds for one second of audio, then `QUALITY`."""

TABLE_3: dict[str, dict[str, tuple[float, ...]]] = {
    "mel_base": {
        "doa": (15.81, 2.032, 10.51, 30.64, 0.2580),
        "clock": (15.42, 2.056, 10.54, 31.36, 0.2646),
        "general": (15.67, 2.036, 10.17, 37.37, 0.2040),
    },
    "stft_base": {
        "doa": (24.45, 2.402, 7.75, 6.02, 0.9434),
        "clock": (24.41, 2.385, 7.82, 6.75, 0.9414),
        "general": (24.65, 2.389, 7.55, 15.43, 0.6468),
    },
    "dualspec": {
        "doa": (23.79, 2.371, 7.28, 10.61, 0.8792),
        "clock": (23.88, 2.391, 7.29, 9.86, 0.8804),
        "general": (24.18, 2.341, 7.33, 19.70, 0.6076),
    },
    "dualspec_d": {
        "doa": (21.81, 2.370, 5.98, 14.95, 0.8324),
        "clock": (21.70, 2.387, 6.02, 14.57, 0.8410),
        "general": (22.09, 2.368, 5.95, 23.10, 0.5928),
    },
    "dualspec_p": {
        "doa": (20.84, 2.309, 10.53, 7.83, 0.9292),
        "clock": (20.86, 2.290, 10.52, 7.72, 0.9317),
        "general": (20.78, 2.306, 10.32, 17.12, 0.6381),
    },
}
"""`QUALITY` by location style."""

NAMES = {
    "audioldm": "AudioLDM",
    "audioldm2": "AudioLDM2",
    "tango": "TANGO",
    "tango2": "TANGO2",
    "mel_base": "Mel-base",
    "stft_base": "STFT-base",
    "dualspec": "DualSpec",
    "dualspec_d": "DualSpec-D",
    "dualspec_p": "DualSpec-P",
}
VAE_NAMES = {"mel_base": "Mel-VAE", "stft_base": "STFT-VAE", "dualspec_d": "Dual-VAE"}
