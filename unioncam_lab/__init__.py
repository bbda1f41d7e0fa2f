"""The laboratory around unioncam_core: networks, pictures, plots and the headless run. No equation lives here."""
