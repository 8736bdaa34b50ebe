import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

// The packages are links into this repository, so React must be taken from here.
export default defineConfig({ plugins: [react()], resolve: { dedupe: ['react', 'react-dom'] } });
